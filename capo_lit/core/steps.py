"""A response's text -> its steps as character spans, and the step of every generated token."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

Style = Literal["paragraph", "line", "tags"]

_NEWLINE = r"(?:\r\n|\n|\r(?!\n))"
# The text is the policy's, so it may be hostile: possessive quantifiers keep every scan linear in its length.
_BLANK_LINES = re.compile(rf"{_NEWLINE}(?:[^\S\r\n]*+{_NEWLINE})++")
_LINE_END = re.compile(_NEWLINE)
_OPENING_TAG = re.compile(r"<step(?:\s[^<>]*+)?>", re.IGNORECASE)

# Where steps after the first may begin, in order; whitespace-only fragments are joined to a neighbour afterwards.
CUTS: dict[Style, Callable[[str], list[int]]] = {
    "paragraph": lambda text: [match.end() for match in _BLANK_LINES.finditer(text)],
    "line": lambda text: [match.end() for match in _LINE_END.finditer(text)],
    "tags": lambda text: [match.start() for match in _OPENING_TAG.finditer(text)][1:],
}


def split_steps(text: str, style: Style = "paragraph") -> list[tuple[int, int]]:
    r"""Split a response into steps, by its text alone.

    paragraph: a step ends after a run of blank lines (lines empty but for whitespace; \n, \r\n or \r). Blank lines
        split everywhere, inside code fences and display maths too.
    line: a step ends after every newline.
    tags: a step begins at every `<step>` (attributes and any case allowed); what follows `</step>` stays with the
        step before it, what precedes the first tag goes to the first step, and a text without tags is one step.

    A fragment of nothing but whitespace is no step: it joins the step before it, or at the start the one after it.

    Args:
        text: the decoded response.
        style: how steps are delimited.

    Returns:
        Half-open character spans, in order, disjoint, covering all of `text`; [] for "", one span for a text of
        whitespace.

    Raises:
        ValueError: if the style is unknown.
    """
    if style not in CUTS:
        raise ValueError(f"got step style {style!r}; expected one of {', '.join(get_args(Style))}")
    if not text:
        return []
    fragments = pairwise([0, *CUTS[style](text), len(text)])
    starts = [start for start, end in fragments if text[start:end].strip()]
    return list(pairwise([0, *starts[1:], len(text)]))


def token_steps(
    pieces: Sequence[str], spans: Sequence[tuple[int, int]], special: Sequence[bool] | None = None
) -> list[int]:
    """The step of every token: the one that holds the token's first character.

    A character of several byte tokens is decoded onto one of them and "" stands on the others; given `special`, such
    a token goes with its character. That is the next one if it is not ASCII (it may then span tokens), else the one
    before. Without `special` an empty piece cannot be told from a special token and counts as one.

    Args:
        pieces: decoded text of every generated id; joined they are the text that `spans` index.
        spans: of the steps, as `split_steps` gives them.
        special: whether each id is a special token.

    Returns:
        For every token a 0-based step; -1 for special tokens and for tokens that start in no span.

    Raises:
        ValueError: if `special` and `pieces` differ in length.
    """
    if special is None:
        special = [not piece for piece in pieces]
    if len(special) != len(pieces):
        raise ValueError(f"got {len(special)} special flags for {len(pieces)} pieces; expected one for each")
    text = "".join(pieces)
    steps, offset = [], 0
    for piece, is_special in zip(pieces, special, strict=True):
        steps.append(-1 if is_special else _step_at(offset if piece else _character_of_byte(text, offset), spans))
        offset += len(piece)
    return steps


def _character_of_byte(text: str, offset: int) -> int:
    """Position of the character that an empty piece at `offset` is a byte of."""
    follows = offset < len(text) and (offset == 0 or not text[offset].isascii())
    return offset if follows else max(offset - 1, 0)


def _step_at(offset: int, spans: Sequence[tuple[int, int]]) -> int:
    step = bisect_right(spans, offset, key=lambda span: span[0]) - 1
    return step if step >= 0 and offset < spans[step][1] else -1
