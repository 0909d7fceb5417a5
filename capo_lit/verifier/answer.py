"""What counts as the answer of a response; nothing is evaluated, and the time is linear in the text.

The part of the verifier that imports nothing heavy, so that its worker processes start fast.
"""

import re

from capo_lit.verifier.normal import closing
from capo_lit.verifier.prose import MARKER, says_only_answer, stated_after, stated_value

TAIL_CHARS = 20_000
"""A response's answer is looked for in this many of its last characters."""
ANSWER_CHARS = 1000
"""A longer answer is no final answer: it is wrong without being parsed."""
NESTING = 50
"""Deeper brackets than this are no final answer either."""
BARE_CHARS = 200
"""The longest response that can be a bare answer."""
_MARKERS_READ = 50

_THINKING = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
_BOX = re.compile(r"\\(?:f|frame)?box(?:ed)?(?![A-Za-z])")
_HASHES = re.compile(r"^[ \t]*+####[ \t]*+(\S[^\n]*)$", re.MULTILINE)
_HEADING = re.compile(
    r"(?:step|part|case|problem|question|section|example|solution|method|note)(?![A-Za-z])", re.IGNORECASE
)
_TOKEN = re.compile(r"[+-]?[0-9][0-9.,]*(?:/[0-9]+)?|[+-]?\\[A-Za-z]+|[A-Za-z](?![A-Za-z])|\([^()\n]{1,200}\)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\{([^{}]*)\}")


def final_answer(response: str) -> str | None:
    r"""The answer that a response gives: the last marked one, of its last TAIL_CHARS characters.

    Reasoning inside `<think>` is not looked at, and with it still open there is no answer. Then, in this order: the
    content of the last `<answer>` (with the box or the sentence in it); the last `\boxed{...}` or `\fbox{...}` that
    is not empty; the rest of the last line that starts with `####`; the value stated after the last "answer is",
    "Answer:" or the like, as `stated_after` reads it; the whole response if it is one short line without words. A
    last box that never closes is no answer, whatever stands before it.

    Args:
        response: the policy's text.

    Returns:
        The answer without its box or marker, or None if there is none.
    """
    said = _spoken(response[-TAIL_CHARS:])
    if said is None:
        return None
    tagged = _tagged(said)
    if tagged is not None:
        return _boxed(tagged) or stated_value(tagged) or _short(tagged)
    if _BOX.search(said):
        return _boxed(said)
    if (line := _after_hashes(said)) is not None:
        return line
    if (value := _marked(said)) is not None:
        return value
    text = said.strip()
    return text if _is_bare(text) else None


def last_box(text: str) -> str | None:
    r"""Content of the last box with content; None if there is no box, or the last one never closes.

    A box without braces holds the number, letter, command or bracket after it: `\boxed 72`, `\boxed\frac{1}{2}`.
    """
    for content in reversed(all_boxes(text)):
        if content is None or content:
            return content
    return None


def all_boxes(text: str) -> list[str | None]:
    """Content of every outermost box, in order; None for one that never closes."""
    contents: list[str | None] = []
    end = 0
    for found in _BOX.finditer(text):
        if found.start() < end:
            continue
        content, end = _content(text, found.end())
        contents.append(content)
        if content is None:
            break
    return contents


def gold_answer(gold: str) -> str:
    """The answer inside a gold text: its last box, or what follows its last `####`, or all of it."""
    if _BOX.search(gold):
        return last_box(gold) or ""
    lines = _HASHES.findall(gold)
    return str(lines[-1] if lines else gold).strip()


def is_oversized(text: str) -> bool:
    """Whether a text is too long or too deeply bracketed to be a final answer."""
    if len(text) > ANSWER_CHARS:
        return True
    depth = 0
    for char in text:
        depth += (char in "{[(") - (char in "}])")
        if depth > NESTING:
            return True
    return False


def _spoken(response: str) -> str | None:
    """What follows the thinking; None if the thinking does not end."""
    marks = list(_THINKING.finditer(response))
    if not marks:
        return response
    return response[marks[-1].end() :] if marks[-1][1] else None


def _tagged(text: str) -> str | None:
    """Content of the last `<answer>` that holds something; one that is still open must be the end of the text."""
    tags = list(_ANSWER_TAG.finditer(text))
    for place in range(len(tags) - 1, -1, -1):
        if tags[place][1]:
            continue
        end = tags[place + 1].start() if place + 1 < len(tags) else len(text)
        content = text[tags[place].end() : end].strip()
        if content:
            return content
    return None


def _boxed(text: str) -> str | None:
    content = last_box(text)
    # A box inside a box; what is too long for an answer is not searched, or nesting would make this quadratic.
    while content and len(content) <= ANSWER_CHARS and (inner := last_box(content)):
        content = inner
    if content and MARKER.search(content):  # a sentence in the box
        return _marked(content) or content
    return content or None


def _content(text: str, start: int) -> tuple[str | None, int]:
    """Content of the box whose command ends at `start`, and where the box ends."""
    length = len(text)
    while start < length and text[start].isspace():
        start += 1
    if start < length and text[start] == "{":
        end = closing(text, start)
        return (None, length) if end is None else (text[start + 1 : end].strip(), end)
    found = _TOKEN.match(text, start)
    if found is None:
        return "", start
    end = found.end()
    command = found[0].lstrip("+-").startswith("\\")
    digits = 2 if found[0].endswith("frac") else 1 if found[0].endswith("sqrt") else 0
    while command and end < length:  # its arguments
        if text[end] == "{":
            close = closing(text, end)
            if close is None:
                return None, length
            end = close + 1
        elif digits and text[end].isdigit():
            end += 1
        else:
            break
        digits -= 1
    return text[start:end].rstrip(".,"), end


def _after_hashes(text: str) -> str | None:
    """The answer on the last line that starts with ####, unless that line is a heading."""
    lines = list(_HASHES.finditer(text))
    if not lines:
        return None
    line = lines[-1][1].strip().strip("*").strip()
    if MARKER.search(line) or _HEADING.match(line):  # "#### Answer: 72", or a heading over the answer
        return None
    is_last = not text[lines[-1].end() :].strip()
    if not is_last and len(_WORD.findall(line)) > 1:
        return None
    return stated_value(line) or _short(line)


def _marked(text: str) -> str | None:
    """The value that the last marker with one states."""
    retracted: set[str] = set()
    for found in list(MARKER.finditer(text))[: -_MARKERS_READ - 1 : -1]:
        statement = stated_after(text, found)
        if statement.governs:
            return statement.value if statement.value not in retracted else None
        retracted |= statement.negated
    return None


def _short(text: str) -> str | None:
    text = text.strip()
    return text if text and len(text) <= BARE_CHARS and "\n" not in text else None


def _is_bare(text: str) -> bool:
    if not text or len(text) > BARE_CHARS or "\n" in text:
        return False
    return not _WORD.search(_TEXT.sub(r"\1", text)) or says_only_answer(text)
