"""Solutions that are already written: rows of a file, checked, with the steps that a judge is to see."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from capo_lit.batch.facts import Completion, Prompt, Rollout, Span
from capo_lit.core.errors import DataError
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import Style, split_steps
from capo_lit.data.rows import Row, read_rows
from capo_lit.data.values import text_field
from capo_lit.genprm.base import step_texts

# Written between steps that came as a list; whatever it is, the spans say what the judge sees.
_BETWEEN = "\n\n"
_RENAME = "rename a field of the row"


@dataclass(frozen=True, slots=True)
class Solution:
    """One solution to be judged.

    Attributes:
        uid: unique in its file; part of the seeds of its critiques.
        problem: the problem's text.
        steps: as the judge sees them.
        between: what stands between two steps in the whole text; "" if the steps were cut out of it.
        label: first wrong step, 0-based; -1 if there is none; None if nobody knows.
        answer: gold answer, "" if there is none.
        reference: reference solution, if there is one.
    """

    uid: str
    problem: str
    steps: tuple[str, ...]
    between: str = ""
    label: int | None = None
    answer: str = ""
    reference: str | None = None

    @property
    def key(self) -> str:
        """What makes it this solution: a digest of all that a judge may be shown, and of its name."""
        shown = [self.uid, self.problem, self.steps, self.answer, self.reference]
        return hashlib.blake2b(json.dumps(shown).encode(), digest_size=16).hexdigest()

    def rollout(self, row: int) -> Rollout:
        """The solution as a rollout whose spans are its steps.

        Args:
            row: its position among those that are judged together.
        """
        pieces = [*(step + self.between for step in self.steps[:-1]), *self.steps[-1:]]
        spans: list[Span] = list(pairwise(accumulate(map(len, pieces), initial=0)))
        completion = Completion(
            request_id=self.uid,
            ids=(),
            pieces=(),
            special=(),
            text="".join(pieces),
            logprobs=None,
            finish_reason="stop",
            prompt_tokens=0,
            version=None,
            seconds=0.0,
        )
        prompt = Prompt(self.uid, self.problem, (), self.answer, self.reference)
        return Rollout(row, row, 0, prompt, completion, outcome=None, spans=tuple(spans))


def read_solutions(path: Path, style: Style = "paragraph", needs_reference: bool = False) -> list[Solution]:
    """All solutions of a file.

    Args:
        path: a file that read_rows takes. Fields: problem; steps (a list of texts) or else solution (one text);
            optionally label, id (file name and line without it), reference and answer.
        style: how a solution is split; steps are taken as they are.
        needs_reference: whether the judge is shown a reference, so that every row must have one or an answer.

    Returns:
        The solutions in the file's order.

    Raises:
        DataError: naming file, line and field, at the first row that cannot be used.
    """
    solutions: list[Solution] = []
    lines: dict[str, int] = {}
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        solution = _solution(row, f"{path.name}:{number}", where, style)
        if solution.uid in lines:
            got = f"{solution.uid!r} in field 'id', as in line {lines[solution.uid]}"
            raise DataError(got, "one row for each id", where)
        if needs_reference and not (solution.reference or solution.answer):
            got = "neither a field 'reference' nor a field 'answer'"
            raise DataError(got, "one of them to show the judge", where, "judge.reference false, or add the field")
        lines[solution.uid] = number
        solutions.append(solution)
    return solutions


def draw_sample(solutions: Sequence[Solution], size: int | None, seed: int) -> list[Solution]:
    """So many solutions, each as likely as the other; a larger sample of the same seed contains the smaller ones.

    Args:
        solutions: those to draw from.
        size: how many; None takes all.
        seed: of the draw.

    Returns:
        The sample, in the order of `solutions`.
    """
    drawn = sorted(solutions, key=lambda solution: derive_seed(seed, "sample", solution.uid))[:size]
    names = {solution.uid for solution in drawn}
    return [solution for solution in solutions if solution.uid in names]


def _solution(row: Row, uid: str, where: str, style: Style) -> Solution:
    problem = text_field(row, "problem", where, _RENAME)
    if not problem.strip():
        raise DataError("an empty field 'problem'", "the problem's text", where)
    if row.get("steps") is not None:
        steps, between = _steps(row["steps"], where), _BETWEEN
    elif "solution" in row:
        text = text_field(row, "solution", where, _RENAME)
        steps, between = tuple(step_texts(text, split_steps(text, style))), ""
    else:
        raise DataError(f"fields {sorted(row)}", "a field 'steps' or a field 'solution'", where, _RENAME)
    solution = Solution(
        uid=_optional(row, "id", where) or uid,
        problem=problem,
        steps=steps,
        between=between,
        label=_label(row.get("label"), len(steps), where),
        answer=_optional(row, "answer", where) or "",
        reference=_optional(row, "reference", where),
    )
    for field in ("uid", "problem", "steps", "answer", "reference"):
        _encodable("".join(getattr(solution, field) or ""), "id" if field == "uid" else field, where)
    return solution


def _encodable(text: str, field: str, where: str) -> None:
    """JSON can escape half a character, which neither a tokenizer nor a parquet file takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{text[error.start]!r} in field '{field}'", "text that is valid Unicode", where) from error


def _optional(row: Row, field: str, where: str) -> str | None:
    return None if row.get(field) is None else text_field(row, field, where, _RENAME)


def _steps(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise DataError(f"a {type(value).__name__} in field 'steps'", "a list of texts", where)
    for number, step in enumerate(value):
        if not isinstance(step, str):
            raise DataError(f"a {type(step).__name__} at place {number} of field 'steps'", "a list of texts", where)
    return tuple(value)


def _label(value: Any, num_steps: int, where: str) -> int | None:
    if value is None:
        return None
    # Parquet files that have rows without a label hold the others as decimals.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value < num_steps:
        expected = f"-1 (no wrong step) or a step from 0 to {num_steps - 1}" if num_steps else "-1 for no steps"
        raise DataError(f"{value!r} in field 'label'", expected, where)
    return value
