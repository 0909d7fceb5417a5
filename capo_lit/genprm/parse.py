"""A judge's reply -> the wrong steps it names, or None: it never guesses what a judge may have meant.

The verdict is the last box, \\boxed{...}, outside the judge's thinking, or a JSON object {"wrong_steps": [...]} that
ends the reply. Its content is cut into tokens, each token becomes one letter, and the word these letters make (the
shape) is matched against the few that have one meaning.
"""

import json
import re
from typing import Any

_THINK = re.compile(r"[<\[\u25c1](/?)think(?:ing)?[>\]\u25b7]", re.IGNORECASE)
_BOX = re.compile(r"\\boxed(?![A-Za-z])\s*+")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_FENCE = re.compile(r"[ \t]*(?:json)?[ \t]*\r?\n?(.*)", re.DOTALL | re.IGNORECASE)
JSON_KEY = "wrong_steps"
# More digits than any step has, and few enough for int() to take them.
_MAX_DIGITS = 9

_DASH = "-\u2010\u2011\u2012\u2013\u2014\u2212"
# In order; the letter is the token's kind. "" is skipped: mark-up that says nothing about which steps are wrong.
_TOKENS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("w", re.compile(r"\\(?:text|math|operatorname)[a-z]*\s*+\{")),
    ("{", re.compile(r"\\\{")),
    ("}", re.compile(r"\\\}")),
    ("", re.compile(r"(?:\s|\\[ ,;:!()]|\\(?:left|right|quad|qquad)(?![a-z])|[~$*`#\"'])+")),
    (",", re.compile(r"[,;\u3001\uff0c\uff1b]")),
    ("&", re.compile(r"and(?![a-z])|\\?&")),
    ("n", re.compile(r"(?:0|[1-9][0-9]*+)(?![0-9])")),
    ("-", re.compile(rf"-{{1,3}}|[{_DASH}]|(?:to|through)(?![a-z])")),
    ("0", re.compile(r"(?:none|no|\\emptyset|\\varnothing)(?![a-z0-9])|\u2205")),
    ("a", re.compile(r"(?:wrong|incorrect)(?![a-z])")),
    ("e", re.compile(r"(?:errors?|mistakes?)(?![a-z])")),
    ("l", re.compile(r"(?:steps?|paragraphs?|index|indices)(?![a-z])\s*+(?:\\?_|:)?")),
)
_MINUS_ONE = re.compile(rf"[{_DASH}]1(?![0-9])")
# They mark up what they surround; alone in a box they say nothing.
_ORNAMENTS = frozenset("~*`#\"'")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}

_ITEM = r"l?(?:n|\(n\)|\[n\]|\{n\})"
_LIST = re.compile(rf"{_ITEM}(?:-l?n)?(?:(?:,&?|&){_ITEM}(?:-l?n)?)*+")
# "no", "none", "no wrong steps", "no errors", "wrong steps: none"; "-1", also several of them.
_NOTHING = re.compile(r"(?:a?l)?(?:0(?:a?[le])?|m(?:,m)*+)")

Token = tuple[str, str]


def parse_critique(reply: str, num_steps: int, index_base: int = 0) -> frozenset[int] | None:
    r"""The wrong steps that a reply names.

    Understood in the box: indices separated by commas, semicolons, `and` or `&`; ranges (2-4, 2 to 4); labels (step
    3); brackets, sets, LaTeX and markdown wrappers; `none`, `no`, -1, an empty box or set for nothing wrong; JSON.

    Args:
        reply: the judge's own turn, verbatim.
        num_steps: s, the steps that the judge was shown.
        index_base: the number the judge was told to give the first step.

    Returns:
        0-based wrong steps, each in [0, s), empty if all are right. None if the reply abstains: no verdict, thinking
        that does not end, a box that does not close, an index out of range, or anything not fully understood.
    """
    said = spoken(reply)
    if said is None:
        return None
    data, rest = _closing_json(said)
    boxed = last_box(rest)
    if data is None:
        return None if boxed is None else _indices(boxed, num_steps, index_base)
    verdict = _json_indices(data, num_steps, index_base)
    # A box beside the JSON must say the same: of two verdicts that differ, neither is the judge's.
    if _BOX.search(rest) and (boxed is None or _indices(boxed, num_steps, index_base) != verdict):
        return None
    return verdict


def spoken(reply: str) -> str | None:
    """What follows the thinking; None if the thinking does not end."""
    marks = list(_THINK.finditer(reply))
    if not marks:
        return reply
    return reply[marks[-1].end() :] if marks[-1][1] else None


def last_box(text: str) -> str | None:
    """Content of the last box; None if there is none, or it does not close."""
    start = max((match.end() for match in _BOX.finditer(text)), default=len(text))
    if not text.startswith("{", start):
        return None
    depth = 0
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return text[start + 1 : brace.start()]
    return None


def _closing_json(text: str) -> tuple[Any, str]:
    """The JSON verdict that ends a text, or None; and the text without it."""
    text = text.strip()
    if text.endswith("```") and (start := text.rfind("```", 0, -3)) >= 0:
        match = _FENCE.fullmatch(text, start + 3, len(text) - 3)
        body, rest = (match[1] if match else ""), text[:start]
    else:
        body, rest = text, ""
    data = _load(body)
    return (data, rest) if data is not None else (None, text)


def _load(body: str) -> Any:
    """A JSON object with a verdict, or None."""
    body = body.strip()
    if not (body.startswith("{") and body.endswith("}")):
        return None
    try:
        # Line breaks inside a string are no JSON, and what some models and grammars write.
        data = json.loads(body, object_pairs_hook=_unique, strict=False)
    except (ValueError, RecursionError):
        # Not JSON, a key twice, an integer too long to read, or nested without end: no verdict.
        return None
    return data if JSON_KEY in data else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key twice")
    return data


def _json_indices(data: dict[str, Any], num_steps: int, index_base: int) -> frozenset[int] | None:
    value = data[JSON_KEY]
    items = value if isinstance(value, list) else [value]
    # True is an int for Python and no index for us; 1.0 and null are not either.
    if not all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
        return None
    return _plain_indices(",".join(str(item) for item in items), num_steps, index_base)


def _indices(content: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    if '"' in content and ":" in content:
        body = content.replace("\\{", "{").replace("\\}", "}").replace("\\_", "_").strip()
        data = _load(body if body.startswith("{") else f"{{{body}}}")
        return None if data is None else _json_indices(data, num_steps, index_base)
    return _plain_indices(content, num_steps, index_base)


def _plain_indices(content: str, num_steps: int, index_base: int) -> frozenset[int] | None:
    tokens = _tokens(content.lower())
    if tokens is None:
        return None
    tokens = _unwrap(tokens)
    shape = "".join(kind for kind, _ in tokens)
    if not shape:
        return None if _ORNAMENTS & set(content) else frozenset()
    if _NOTHING.fullmatch(shape):
        return frozenset()
    if not _LIST.fullmatch(shape):
        return None
    return _numbers(tokens, num_steps, index_base)


def _tokens(text: str) -> list[Token] | None:
    """Kinds and texts of what stands in a box; None if anything in it is unknown."""
    # One full stop may end a verdict; anywhere else it makes another number of it.
    text = text.strip().removesuffix(".")
    tokens: list[Token] = []
    groups: list[str] = []
    position = 0
    while position < len(text):
        kind, end = _token_at(text, position, tokens)
        if kind is None:
            return None
        if kind in ("w", "group"):
            groups.append("" if kind == "w" else "}")
            kind = "" if kind == "w" else "{"
        elif kind == "end":
            if not groups:
                return None
            kind = groups.pop()
        if kind:
            tokens.append((kind, text[position:end]))
        position = end
    return None if groups else tokens


def _token_at(text: str, position: int, before: list[Token]) -> tuple[str | None, int]:
    """Kind and end of the token at a position; the kind is None if there is none."""
    char = text[position]
    if char in "{}":
        return ("group" if char == "{" else "end"), position + 1
    if char in "()[]":
        return char, position + 1
    # A sign can only stand where no number came before; "3-1" is a range.
    if not (before and before[-1][0] in "n)]}") and (minus_one := _MINUS_ONE.match(text, position)):
        return "m", minus_one.end()
    for kind, pattern in _TOKENS:
        if match := pattern.match(text, position):
            return kind, match.end()
    return None, position


def _unwrap(tokens: list[Token]) -> list[Token]:
    """Without a label before everything, and without the brackets around everything."""
    # Three pairs are more than any judge writes; the bound keeps hostile replies linear.
    for _ in range(3):
        shape = "".join(kind for kind, _ in tokens)
        label = re.match(r"a?l(?=[(\[{])|al(?=n)", shape)
        if label:
            tokens, shape = tokens[label.end() :], shape[label.end() :]
        if len(shape) < 2 or _BRACKETS.get(shape[0]) != shape[-1] or not _balanced(shape[1:-1]):
            break
        tokens = tokens[1:-1]
    return tokens


def _balanced(shape: str) -> bool:
    """Whether all brackets of a shape close within it: those around `(n),(n)` do not belong together."""
    stack = []
    for kind in shape:
        if kind in _BRACKETS:
            stack.append(_BRACKETS[kind])
        elif kind in ")]}" and (not stack or stack.pop() != kind):
            return False
    return not stack


def _numbers(tokens: list[Token], num_steps: int, index_base: int) -> frozenset[int] | None:
    """The indices of a list whose shape is sound; None if one is out of range or a range runs backwards."""
    reach: dict[int, int] = {}
    first, is_range = -1, False
    for kind, text in tokens:
        if kind == "n":
            step = int(text) - index_base if len(text) <= _MAX_DIGITS else num_steps
            if not 0 <= step < num_steps or (is_range and step < first):
                return None
            first, is_range = (first if is_range else step), False
            reach[first] = max(step, reach.get(first, step))
        elif kind == "-":
            is_range = True
    steps: set[int] = set()
    covered = -1
    # Each step is added once, however often ranges repeat it.
    for first in sorted(reach):
        steps.update(range(max(first, covered + 1), reach[first] + 1))
        covered = max(covered, reach[first])
    return frozenset(steps)
