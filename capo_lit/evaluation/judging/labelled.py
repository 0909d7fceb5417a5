"""Solutions whose first wrong step is known, to measure a judge: from a file, or made by planting one error."""

import random
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from capo_lit.core.errors import DataError, check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import split_steps
from capo_lit.data.sources import Problem, PromptSource
from capo_lit.evaluation.judging.scores import NO_WRONG_STEP
from capo_lit.evaluation.judging.solutions import Solution, read_solutions
from capo_lit.genprm.base import step_texts

# A number that is not part of a word, a longer number or a decimal fraction; after "=", it is a result.
_NUMBER = re.compile(r"(?<![\w.,])[0-9]{1,9}(?![0-9A-Za-z_]|[.,][0-9])")
_BEFORE_RESULT = re.compile(r"=[\s$\\]*$")
_LARGEST_CHANGE = 9


class LabelledSource(ABC):
    """Solutions with labels, some of them right and some wrong."""

    @abstractmethod
    def load(self) -> Sequence[Solution]:
        """The solutions, in an order that never changes; none has the label None.

        Raises:
            DataError: if a file, row or problem cannot be used.
        """


class LabelledFile(LabelledSource):
    """Labelled solutions from a file in the form of ProcessBench.

    Args:
        path: the file; fields problem, steps (or solution) and label, the first wrong step from 0, -1 for none.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def load(self) -> Sequence[Solution]:
        rows = read_solutions(self.path)
        for row in rows:
            if row.label is None:
                raise DataError(f"solution {row.uid!r} without a label", "a field 'label'", str(self.path))
        return rows


class PlantedErrors(LabelledSource):
    """Known-good solutions, every other one with one wrong step planted in it.

    One number of one step of the reference solution is changed, a result after "=" where there is one. For the built-in
    arithmetic, whose demonstrations may be wrong, there is PlantedArithmeticErrors.

    Args:
        problems: with reference solutions that are right; one solution for each. Their steps are their paragraphs, or
            their lines where there is but one paragraph.
    """

    def __init__(self, problems: PromptSource) -> None:
        got = f"{type(problems).__name__}, whose references may be wrong"
        check_settings([(problems.right_references, got, "right ones", "problems")], "PlantedErrors")
        self.problems = problems

    def load(self) -> Sequence[Solution]:
        return [self.solution(problem, wrong=index % 2 == 1) for index, problem in enumerate(self.problems.load())]

    def solution(self, problem: Problem, wrong: bool) -> Solution:
        """The solution of a problem, right or with one wrong step."""
        steps, label = self._reference_steps(problem), NO_WRONG_STEP
        if wrong:
            rng = random.Random(derive_seed("planted error", 0, problem.uid))
            steps, label = change_one_number(steps, rng, problem.uid)
        return Solution(problem.uid, problem.problem, tuple(steps), "", label, problem.answer, problem.reference)

    def _reference_steps(self, problem: Problem) -> list[str]:
        if not problem.reference:
            raise DataError(
                "no reference solution",
                "one to plant an error in",
                f"problem {problem.uid}",
                "fields.reference of the source of PlantedErrors",
            )
        paragraphs = step_texts(problem.reference, split_steps(problem.reference, "paragraph"))
        if len(paragraphs) > 1:
            return paragraphs
        return step_texts(problem.reference, split_steps(problem.reference, "line"))


def change_one_number(steps: Sequence[str], rng: random.Random, where: str = "") -> tuple[list[str], int]:
    """Plant an error: one number of one step becomes another one.

    Args:
        steps: of a right solution.
        rng: draws the number, among the results after "=" if there are any, and what it becomes.
        where: what the solution is called, for the error.

    Returns:
        The steps with the error, and the step it is in.

    Raises:
        DataError: if no step has a number to change.
    """
    found = [(index, match) for index, step in enumerate(steps) for match in _NUMBER.finditer(step)]
    results = [(index, match) for index, match in found if _BEFORE_RESULT.search(match.string, 0, match.start())]
    # A number that begins a step may be the step's own.
    others = [(index, match) for index, match in found if match.string[: match.start()].strip(" #*(")]
    places = results or others
    if not places:
        raise DataError("a reference solution without a number to change", "one", where, "the source of PlantedErrors")
    index, match = rng.choice(places)
    value = int(match[0])
    low = max(0, value - _LARGEST_CHANGE)
    other = rng.choice([n for n in range(low, value + _LARGEST_CHANGE + 1) if n != value])
    changed = match.string[: match.start()] + str(other) + match.string[match.end() :]
    return [*steps[:index], changed, *steps[index + 1 :]], index
