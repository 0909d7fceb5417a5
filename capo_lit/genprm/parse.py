r"""A judge's reply -> the wrong steps it names, or None: it never guesses what a judge may have meant.

A verdict is a box, \boxed{...}, or a JSON object {"wrong_steps": [...]} that the judge says as its own: outside its
thinking, outside quotations, not as somebody else's, as an instruction or as a condition. All verdicts of a reply must
say the same, or be one box a step in a text that says so.
"""

from capo_lit.genprm.boxes import boxes_of, disowned, retracted
from capo_lit.genprm.own_words import Quotations, Span, own_words, unfenced
from capo_lit.genprm.verdict_boxes import Read, boxed_verdict, echoes
from capo_lit.genprm.verdict_json import content_steps, has_loose_key, object_steps, verdict_objects

Steps = frozenset[int]


def parse_critique(reply: str, num_steps: int, index_base: int = 0, quotable: str = "") -> Steps | None:
    r"""The wrong steps that a reply names.

    Understood in the box: indices separated by commas, semicolons, `and` or `&`; ranges (2-4, 2 to 4); labels (step
    3, step-3); remarks (3 (sign error), error in step 3); brackets, sets, LaTeX and markdown wrappers; `all`; `none`,
    `no errors`, `all steps are correct`, -1, an empty box or set for nothing wrong; the same in Chinese; JSON.

    Args:
        reply: the judge's own turn, verbatim.
        num_steps: s, the steps that the judge was shown.
        index_base: the number the judge was told to give the first step.
        quotable: a text that an unfinished reply may quote without saying so yet: the solution; "" for a whole reply.

    Returns:
        0-based wrong steps, each in [0, s), empty if all are right. None if the reply abstains: no verdict, two that
        differ, thinking that does not end, a box or an object that does not close, an index out of range, a box that
        may be quoted, or anything not fully understood.
    """
    said = own_words(reply)
    if said is None:
        return None

    def read(content: str) -> Steps | None:
        return content_steps(content, num_steps, index_base)

    wrong = _verdict(unfenced(said), num_steps, index_base, read)
    return None if wrong is None or echoes(said, quotable, wrong, read) else wrong


def parse_word(reply: str, read: Read, quotable: str = "") -> Steps | None:
    """What the boxes of a reply say that hold a word and no steps; arguments and abstentions as in `parse_critique`.

    Args:
        reply: the judge's own turn, verbatim.
        read: what a box's content says; None if it is not understood.
        quotable: a text that an unfinished reply may quote without saying so yet.
    """
    said = own_words(reply)
    text = unfenced(said or "")
    boxes = boxes_of(text)
    if said is None or boxes is None:
        return None
    quotations = Quotations(text, [(box.start, box.end) for box in boxes])
    word, _ = boxed_verdict(text, boxes, quotations.hold, read, index_base=None)
    return None if word is None or echoes(said, quotable, word, read) else word


def _verdict(said: str, num_steps: int, index_base: int, read: Read) -> Steps | None:
    """What the boxes and objects of a judge's own words say."""
    objects = verdict_objects(said)
    # Boxes in an object's strings are quotations, and its braces are not theirs.
    text = _blanked(said, objects)
    boxes = boxes_of(text)
    if boxes is None or has_loose_key(_blanked(text, [(box.start, box.end) for box in boxes])):
        return None
    quotations = Quotations(text, sorted([*objects, *((box.start, box.end) for box in boxes)]))
    boxed, any_box = boxed_verdict(text, boxes, quotations.hold, read, index_base)
    verdicts = [boxed] if any_box else []
    floors = [0, *(end for _, end in objects)]
    verdicts += [
        object_steps(said[start:end], num_steps, index_base)
        for floor, (start, end) in zip(floors, objects, strict=False)
        if not quotations.hold(start) and not disowned(text, start, end, floor)
    ]
    if objects and retracted(text, objects[-1][1]):
        return None
    # Of two verdicts that differ, neither is the judge's.
    return verdicts[0] if verdicts and len(set(verdicts)) == 1 else None


def _blanked(text: str, spans: list[Span]) -> str:
    """The text with spaces for some spans, so that all places stay."""
    pieces, position = [], 0
    for start, end in spans:
        pieces += [text[position:start], " " * (end - start)]
        position = end
    return "".join([*pieces, text[position:]])
