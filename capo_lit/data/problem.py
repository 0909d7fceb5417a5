"""From the row of a file to a Problem: which fields are used, and what may stand in them."""

from dataclasses import dataclass
from typing import Any, Literal

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.chats import is_chat, prompt_turns, readable, reply_text
from capo_lit.data.gold import EXTRACTIONS, Extraction, different
from capo_lit.data.rows import Row
from capo_lit.data.values import lookup, text_field, text_of
from capo_lit.engines.base import Message

ListRule = Literal["any", "all"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem before it is rendered.

    Attributes:
        uid: stable name, unique in its source.
        problem: bare text, as the judge sees it.
        answer: the gold answer; "" if the source has none (enough for SFT, not for RL or validation).
        reference: a full reference solution (for SFT: the response to imitate), if the source has one.
        answers: gold answers any one of which is right, where there are several; `answer` then shows them all.
        chat: the messages that ask the problem, where they are more than one of the user.
    """

    uid: str
    problem: str
    answer: str
    reference: str | None = None
    answers: tuple[str, ...] = ()
    chat: tuple[Message, ...] = ()


@dataclass
class Fields:
    """Which fields of a row are used, and how the answer is found in its field.

    A field is named by a path: `answer`, `reward_model.ground_truth`, `turns.0.text`. A key that has the dots in its
    own name goes first. A field may hold chat messages, each with a role and a content.

    Args:
        problem: field of the problem: a text, or a chat up to its last user turn.
        answer: field of the gold answer: a text, a number, a list of them, or a chat, whose last assistant turn
            counts; null for SFT data that has none.
        extraction: "none" takes the answer's field as it is; "gsm8k" what follows the last ####; "boxed" the boxes;
            "last_number" the last number.
        reference: field of a full solution (for SFT, of the response to imitate): a text, or a chat, whose last
            assistant turn counts.
        uid: field of a unique name; without it, file name and line number.
        answer_list: what several different answers of a row (a list, or several boxes) ask of a response: "any" one
            of them, or "all" in one answer; null refuses such rows.
    """

    problem: str = "problem"
    answer: str | None = "answer"
    extraction: Extraction = "none"
    reference: str | None = None
    uid: str | None = None
    answer_list: ListRule | None = None


def read_problem(row: Row, fields: Fields, where: str, uid: str) -> Problem:
    """The problem in a row.

    Args:
        row: the row.
        fields: which of its fields are used.
        where: file and line, for messages.
        uid: its name where `fields` names no field for it.

    Raises:
        DataError: if a field is missing or cannot be used.
        ConfigError: if `fields` asks for what there is not.
    """
    chat = _asked(row, fields.problem, where)
    answers = _answers(row, fields, where) if fields.answer is not None else [""]
    reference = None
    if fields.reference:
        solution = lookup(row, fields.reference, where, "fields.reference")
        reference = _solution(solution, fields.reference, where, "fields.reference")
    if fields.uid:
        uid = text_field(row, fields.uid, where, "fields.uid")
    any_of = fields.answer_list == "any" and len(answers) > 1
    return Problem(
        uid,
        problem=readable(chat),
        answer=(" or " if any_of else ", ").join(answers),
        reference=reference,
        answers=tuple(answers) if any_of else (),
        chat=chat if len(chat) > 1 else (),
    )


def _asked(row: Row, field: str, where: str) -> tuple[Message, ...]:
    """The turns that ask the problem; a text is one of the user's."""
    value = lookup(row, field, where, "fields.problem")
    if is_chat(value):
        return prompt_turns(value, where, "fields.problem")
    text = text_of(value, field, where, "fields.problem")
    if not text.strip():
        raise DataError(f"an empty field '{field}'", "a problem", where, "fields.problem")
    return ({"role": "user", "content": text},)


def _solution(value: Any, field: str, where: str, setting: str) -> str:
    """A text, a number, or the last assistant turn of a chat."""
    return reply_text(value, where, setting) if is_chat(value) else text_of(value, field, where, setting)


def _answers(row: Row, fields: Fields, where: str) -> list[str]:
    """The different gold answers of a row; several only if fields.answer_list says what they mean."""
    field, name, rule = str(fields.answer), fields.extraction, fields.answer_list
    if name not in EXTRACTIONS:
        raise ConfigError(f"extraction '{name}'", f"one of {sorted(EXTRACTIONS)}", "Fields", "fields.extraction")
    if rule not in (None, "any", "all"):
        raise ConfigError(f"answer_list '{rule}'", "any, all or null", "Fields", "fields.answer_list")
    value = lookup(row, field, where, "fields.answer")
    items = value if isinstance(value, list | tuple) and not is_chat(value) else [value]
    texts = [_solution(item, field, where, "fields.answer") for item in items]
    change = "fields.extraction or fields.answer"
    try:
        found = [EXTRACTIONS[name](text) for text in texts]
    except DataError as error:
        got = f"{error.got} in field '{field}' by extraction '{name}'"
        raise DataError(got, error.expected, where, change) from error
    if not found or not all(answers and all(answers) for answers in found):
        got = f"no answer in field '{field}' by extraction '{name}' ({str(value)[-60:]!r})"
        raise DataError(got, "an answer in every row", where, change)
    answers = different([answer for answers in found for answer in answers])
    if len(answers) > 1 and rule is None:
        raise DataError(
            f"{len(answers)} different answers {answers[:5]} in field '{field}'",
            "one, or a rule for several",
            where,
            "fields.answer_list any (one of them is right) or all (a response gives all of them)",
        )
    return answers
