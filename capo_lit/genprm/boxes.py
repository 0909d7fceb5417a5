r"""The boxes of a reply, \boxed{...}, and what the words around each make of it.

A box is a verdict where it stands alone, or where the words before it say that it names wrong steps. One that belongs
to somebody else (the student writes \boxed{2}), to the instruction (write \boxed{none}), to a condition (if step 1 is
wrong, \boxed{1}) or to the mathematics (5-2=\boxed{3}) is none.
"""

import re
from dataclasses import dataclass
from enum import Enum

from capo_lit.genprm import wording

_PIECE = re.compile(r"(?<!\\)\\++boxed(?![A-Za-z])\s*+(\{?)|\\.|[{}]", re.DOTALL)
# Words further away say nothing about a box, and the bound keeps hostile replies linear.
_WINDOW = 400

_MARKUP = (
    r"[\s*_`$~#\u2022]|\\[()\[\],;! ]|\\(?:quad|displaystyle)(?![a-z])|</?(?:answer|verdict|b|strong|center|p|br)/?>"
)
_BEFORE = re.compile(rf"(?:`{{3}}[a-z]*|\\boxed\s*\{{|{_MARKUP})+\Z", re.IGNORECASE)
_ONLY_MARKUP = re.compile(rf"(?:{_MARKUP}|[.\u3002!\-\u2013\u2014]|[`~]{{3,}}\w*)*\Z", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<!e\.g)(?<!i\.e)[.!?](?=[\s*_)]|\Z)|[\u3002\uff01\uff1f\n]|<br>")
_HEADING = re.compile(r"\s*(?:#{1,6} .*|\*\*[^*]+\*\*:?|__[^_]+__:?)\s*")
_OPEN_END = re.compile(
    r"(?:[:\uff1a,\uff0c=\u2014\u2013-]|\b(?:is|are|be|with|as|by|in|writes?|wrote|says?|said|states?|concludes?|gets?|answer"
    r"|reads?|following|to|a|the|that|and|box(?:es)?))[\s*_`$]*\Z",
    re.IGNORECASE,
)

_LABEL = re.compile(r"\w\W{0,3}[:\uff1a]\W{0,3}\Z")
_LABEL_WORDS = 4
_WORD = re.compile(r"\w+")
_RESULT = re.compile(r"\bresults?\b", re.IGNORECASE)
_INTRODUCES = re.compile(r"(?:[:\uff1a]|\b(?:is|are))[\s*]*\Z")
_JOIN = re.compile(rf"(?:{_MARKUP}|[,;\u3001\uff0c&]|and\b|also\b|\u548c)+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Box:
    """One box without a box in it.

    Attributes:
        content: what stands between its braces.
        start: where it begins in the text, at the backslash.
        end: where the text after it begins.
    """

    content: str
    start: int
    end: int


class Standing(Enum):
    """What the words around a box make of it."""

    NOT = "somebody else's, an instruction, a condition: no verdict whatever it holds"
    NUMBER = "a verdict if it holds words or agrees with the text; a bare number may be one of the problem's"
    OWN = "a verdict"
    NAMED = "a verdict that words like `wrong steps` introduce"


def boxes_of(text: str) -> list[Box] | None:
    """The innermost boxes, in order; None if the last one that opens does not close."""
    found: list[Box] = []
    # Of each open brace: where its box begins, or -1; and where its content does.
    stack: list[tuple[int, int]] = []
    last, last_closed = -1, True
    for piece in _PIECE.finditer(text):
        if "boxed" in piece[0]:
            last, last_closed = piece.start(), False
            if piece[1]:
                stack.append((last, piece.end()))
        elif piece[0] == "{":
            stack.append((-1, 0))
        elif piece[0] == "}" and stack:
            start, inner = stack.pop()
            if start >= 0 and start == last:
                found.append(Box(text[inner : piece.start()], start, piece.end()))
                last_closed = True
    return found if last_closed else None


def lead_of(text: str, start: int, floor: int) -> str:
    """The words that lead to a place: those of its sentence, or of an open line before it.

    Args:
        text: the judge's own turn.
        start: of the place.
        floor: where the last verdict before it ends.

    Returns:
        The words; none if the place begins its line or sentence.
    """
    begin = max(floor, start - _WINDOW)
    before = _BEFORE.sub("", text[begin:start])
    gap = text[begin + len(before) : start]
    if before and "\n" not in gap:
        return _sentence(before)
    line = before.rpartition("\n")[2]
    # Fences and list marks say nothing; a line that is not finished goes on here.
    if _OPEN_END.search(line) or _HEADING.fullmatch(line):
        return _sentence(line)
    return ""


def _sentence(text: str) -> str:
    end = 0
    for match in _SENTENCE.finditer(text):
        end = match.end()
    return text[end:]


def standing(text: str, box: Box, floor: int, numbers: frozenset[int] | None) -> Standing:
    """What the words around a box make of it.

    Args:
        text: the judge's own turn.
        box: of it.
        floor: where the box before it ends.
        numbers: the steps that the box names, as the judge counts them; None if it is not understood.
    """
    lead = lead_of(text, box.start, floor)
    tail = _after(text, box.end)
    if foreign(lead) or (numbers and wording.COUNT.search(lead)):
        return Standing.NOT
    if wording.LABEL_END.search(lead) and wording.CALLS_WRONG.match(tail):
        return Standing.NAMED
    # Words like `none` are a verdict also in a sentence about the student's answer, a bare number is not.
    others = numbers and (wording.OTHERS.search(lead) or wording.CORRECTED.search(lead))
    cleared = wording.GOOD.search(lead) and not wording.BAD.search(lead) and numbers != frozenset()
    empty = not box.content.strip() and lead and not _INTRODUCES.search(lead)
    if others or cleared or empty or wording.DISOWNS.match(tail):
        return Standing.NOT
    return _own(text, box, floor, lead, numbers)


def foreign(lead: str) -> bool:
    """Whether words say that what follows is no verdict of the judge."""
    return any(pattern.search(lead) for pattern in (wording.SPEECH, wording.ORDERS, wording.DOUBTS))


def _own(text: str, box: Box, floor: int, lead: str, numbers: frozenset[int] | None) -> Standing:
    if not lead.strip() or _ONLY_MARKUP.match(lead):
        return Standing.OWN
    if named_before(text, box, floor, numbers):
        return Standing.NAMED
    if wording.OWN_ANSWER.fullmatch(lead):
        return Standing.OWN
    verdict = None
    for match in wording.VERDICT.finditer(lead):
        verdict = match
    rest = lead if verdict is None else lead[verdict.end() :]
    # "Step 4: \\boxed{4}" may tell what stands in step 4.
    if (
        wording.MATHS.search(rest)
        or not wording.neutral(rest)
        or (verdict is None and wording.STEP_NUMBER.search(lead))
    ):
        return Standing.NUMBER
    return Standing.NAMED if verdict else Standing.OWN


def named_before(text: str, box: Box, floor: int, numbers: frozenset[int] | None) -> bool:
    """Whether the text just before a box calls exactly its steps wrong."""
    if not numbers:
        return False
    begin = max(floor, box.start - _WINDOW)
    sentences = re.split(r"[.!?;](?=\s)|[\n\u3002]", text[begin : box.start])
    said: set[int] = set()
    # The first may have lost its beginning, and with it an `if`.
    for sentence in sentences[begin > floor :]:
        if (
            wording.BAD.search(sentence)
            and not wording.GOOD.search(sentence)
            and not foreign(sentence)
            and not wording.OTHERS.search(sentence)
        ):
            said.update(int(number[1] or number[2]) for number in wording.STEP_NUMBER.finditer(sentence))
    return numbers == said


def ends_after_label(text: str, box: Box, floor: int) -> bool:
    """Whether a box ends the text after a short label that speaks of no answer or value, as in `Look: \\boxed{1}`."""
    lead = lead_of(text, box.start, floor)
    label = _RESULT.sub("", lead)
    return (
        _ONLY_MARKUP.match(text[box.end :]) is not None
        and _LABEL.search(lead) is not None
        and len(_WORD.findall(lead)) <= _LABEL_WORDS
        and not re.search(r"\d", lead)
        and not (wording.MATHS.search(label) or wording.WORKED_OUT.search(label))
    )


def disowned(text: str, start: int, end: int, floor: int) -> bool:
    """Whether the words around an object say that it is no verdict of the judge."""
    return foreign(lead_of(text, start, floor)) or wording.DISOWNS.match(_after(text, end)) is not None


def retracted(text: str, end: int) -> bool:
    """Whether what follows a verdict takes it back, or may."""
    return wording.RETRACTS.search(text[end:]) is not None


def joined(text: str, box: Box, other: Box) -> bool:
    """Whether two boxes are items of one list: nothing but a comma or `and` between them."""
    between = text[box.end : other.start]
    return (
        len(between) < _WINDOW
        and _JOIN.fullmatch(between) is not None
        and re.search(r"[,;\u3001\uff0c&]|and|\u548c", between) is not None
    )


def _after(text: str, end: int) -> str:
    """What the sentence says after a box."""
    line = text[end : end + _WINDOW].partition("\n")[0].strip()
    line = re.sub(r"\A(?:[*_`$~]|\\[)\]])+", "", line)
    if line[:1] in (".", "\u3002", "!", "?"):
        return ""
    return line
