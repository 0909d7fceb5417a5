"""Which boxes of a reply are the judge's verdict, and what they say together."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from capo_lit.genprm import wording
from capo_lit.genprm.boxes import (
    Box,
    Standing,
    boxes_of,
    ends_after_label,
    joined,
    lead_of,
    named_before,
    retracted,
    standing,
)

Steps = frozenset[int]
Read = Callable[[str], Steps | None]
# A number, numbers or nothing, in whatever mark-up: not the words of a verdict.
_WORDLESS = re.compile(r"(?:[^\w\u2205]|\\[a-z]+|[0-9_])*", re.IGNORECASE)


@dataclass(slots=True)
class Said:
    """What one box, or a list of boxes, says.

    Attributes:
        steps: that it names; None if it is not understood.
        standing: what the words around it make of it.
        confirmed: whether the text before it calls exactly these steps wrong.
        end: where the text after it begins.
    """

    steps: Steps | None
    standing: Standing
    confirmed: bool
    end: int


def boxed_verdict(
    text: str, boxes: list[Box], quoted: Callable[[int], bool], read: Read, index_base: int | None
) -> tuple[Steps | None, bool]:
    """What the boxes of a text say together.

    Args:
        text: the judge's own turn.
        boxes: all of it, in order.
        quoted: whether a place of it lies in a quotation.
        read: the steps that a box's content names, None if it is not understood.
        index_base: the number of the first step; None if boxes hold a word and no numbers.

    Returns:
        The steps, None if the boxes differ or one is not understood; and whether any box is a verdict.
    """
    said = [one for one in _said(text, boxes, quoted, read, index_base) if one.standing is not Standing.NOT]
    # What is not understood was something else, a result perhaps, if a verdict follows that is.
    said = [one for one in said[:-1] if one.steps is not None or one.standing is Standing.NAMED] + said[-1:]
    if not said or any(one.steps is None for one in said) or retracted(text, said[-1].end):
        return None, bool(said)
    steps = {one.steps for one in said if one.steps is not None}
    return (steps.pop() if len(steps) == 1 else _union(said)), True


def _union(said: list[Said]) -> Steps | None:
    """One box a step, each of which the text before it calls wrong, and perhaps a last box with all of them."""
    named = [one.steps for one in said if one.confirmed and one.steps]
    union = Steps().union(*named)
    return union if len(named) > 1 and all(one.steps == union for one in said if not one.confirmed) else None


def _said(text: str, boxes: list[Box], quoted: Callable[[int], bool], read: Read, index_base: int | None) -> list[Said]:
    said: list[Said] = []
    floor = 0
    before: Box | None = None
    for box in boxes:
        steps = read(box.content)
        if before is not None and joined(text, before, box):
            said[-1] = _both(said[-1], steps, box.end)
        else:
            numbers = _numbers(steps, index_base)
            kind = Standing.NOT if quoted(box.start) else standing(text, box, floor, numbers)
            if kind is Standing.NUMBER:
                own = _in_words(text, box, floor, index_base) or (
                    len(boxes) == 1 and ends_after_label(text, box, floor)
                )
                kind = Standing.OWN if steps is not None and own else Standing.NOT
            said.append(Said(steps, kind, named_before(text, box, floor, numbers), box.end))
        before, floor = box, box.end
    return said


def _in_words(text: str, box: Box, floor: int, index_base: int | None) -> bool:
    """Whether a box holds words, in a sentence that says what is right or wrong."""
    lead = lead_of(text, box.start, floor)
    sentence_judges = index_base is None or wording.GOOD.search(lead) or wording.BAD.search(lead) or "answer" in lead
    return bool(sentence_judges) and not _WORDLESS.fullmatch(box.content)


def _both(one: Said, steps: Steps | None, end: int) -> Said:
    """A list of boxes: they are one verdict, whose words stand before the first."""
    if one.steps is None or steps is None or bool(one.steps) != bool(steps):
        return Said(None, one.standing, False, end)
    return Said(one.steps | steps, one.standing, False, end)


def _numbers(steps: Steps | None, index_base: int | None) -> Steps | None:
    """Steps as the judge counts them."""
    if index_base is None:
        return Steps()
    return None if steps is None else Steps(step + index_base for step in steps)


def echoes(said: str, quotable: str, verdict: Steps, read: Read) -> bool:
    """Whether a box that may have led to a verdict also stands in a text, so that it may be a quotation of it.

    Args:
        said: the judge's own words.
        quotable: that text.
        verdict: that the judge's words give.
        read: as for `boxed_verdict`.
    """
    contents = {box.content for box in boxes_of(said) or [] if f"\\boxed{{{box.content}}}" in quotable}
    return any((steps := read(content)) is not None and steps <= verdict for content in contents)
