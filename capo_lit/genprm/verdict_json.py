"""JSON verdicts in a reply: where an object {"wrong_steps": [...]} stands, and what it says."""

import json
import re
from collections.abc import Iterator
from typing import Any

from capo_lit.genprm.naming import named
from capo_lit.genprm.own_words import JSON_KEY, Span

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*+"|\\.|[{}]', re.DOTALL)
# More braces that never close than any judge writes; each costs a look at the rest of the text.
_MAX_UNCLOSED = 8
_BACKSLASH = re.compile(r'\\(?:u(?![0-9a-fA-F]{4})|[^"\\/bfnrtu])', re.DOTALL)
_STRING_OR_COMMA = re.compile(r'"(?:[^"\\]|\\.)*+"|,(?=\s*+[\]}])', re.DOTALL)
_SINGLE_QUOTED = re.compile(rf"\{{\s*'{JSON_KEY}'\s*:\s*(\[[^\[\]{{}}\"\\]*\])\s*,?\s*\}}")
_BEFORE_BOX = re.compile(r"\\boxed\s*\Z")
_KEY = re.compile(rf"[\"']{JSON_KEY}[\"']\s*+:")


def verdict_objects(text: str) -> list[Span]:
    """Where the outermost objects that mention the key stand; those in a box are the box's own."""
    if JSON_KEY not in text:
        return []
    return [(start, end) for start, end in _objects(text) if JSON_KEY in text[start:end]]


def has_loose_key(text: str) -> bool:
    """Whether a key of a verdict stands in a text, as in an object that does not close."""
    return _KEY.search(text) is not None


def _objects(text: str) -> Iterator[Span]:
    position, unclosed = 0, 0
    while unclosed < _MAX_UNCLOSED and (start := text.find("{", position)) >= 0:
        position = start + 1
        if text[start - 1 : start] == "\\":
            continue
        end = _end(text, start)
        if end is None:
            unclosed += 1
            continue
        position = end
        if not _BEFORE_BOX.search(text, max(0, start - 40), start):
            yield start, end


def _end(text: str, start: int) -> int | None:
    """Where the object that starts here ends; braces in strings do not count."""
    depth = 0
    for piece in _PIECE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(piece[0], 0)
        if depth == 0:
            return piece.end()
    return None


def content_steps(content: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    """What stands in a box: such an object, or a list or words."""
    if '"' in content and ":" in content and JSON_KEY in content.replace("\\_", "_"):
        body = content.replace("\\{", "{").replace("\\}", "}").replace("\\_", "_").strip()
        return object_steps(body if body.startswith("{") else f"{{{body}}}", num_steps, index_base)
    return named(content, num_steps, index_base)


def object_steps(body: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    """What an object says; None if it is no JSON, has no verdict of its own, or one that is not understood.

    Backslashes of LaTeX and commas before a closing bracket are no JSON, and what many models write; so are line
    breaks in strings.
    """
    data = _load(body)
    if data is None:
        return None
    value = data[JSON_KEY]
    items = value if isinstance(value, list) else [value]
    # True is an int for Python and no index for us; 1.0 and null are not either.
    if not all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
        return None
    said = [named(str(item), num_steps, index_base) for item in items]
    steps = [one for one in said if one is not None]
    # "none" beside a step says two things.
    if len(steps) < len(said) or (any(steps) and not all(steps)):
        return None
    return frozenset[int]().union(*steps)


def _load(body: str) -> dict[str, Any] | None:
    """A JSON object with a verdict, or None."""
    body = body.strip()
    if not (body.startswith("{") and body.endswith("}")):
        return None
    if single := _SINGLE_QUOTED.fullmatch(body):
        body = f'{{"{JSON_KEY}": {single[1]}}}'.replace("'", '"')
    for text in (body, _mended(body)):
        try:
            data = json.loads(text, object_pairs_hook=_unique, strict=False)
        except (ValueError, RecursionError):
            # Not JSON, a key twice, an integer too long to read, or nested without end: no verdict.
            continue
        return data if JSON_KEY in data else None
    return None


def _mended(body: str) -> str:
    body = _BACKSLASH.sub(lambda match: "\\" + match[0], _escaped_pairs(body))
    return _STRING_OR_COMMA.sub(lambda match: "" if match[0] == "," else match[0], body)


def _escaped_pairs(body: str) -> str:
    """Escaped backslashes spelt as \\u005c, so that what follows them is not taken for their escape."""
    return body.replace("\\\\", "\\u005c")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key twice")
    return data
