"""How good a judge is, measured against labels of the first wrong step; and how far its critiques agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

NO_WRONG_STEP = -1
# Under the average vote a step counts as wrong from this share of the critiques on, as under the majority vote.
WRONG_FROM = 0.5


@dataclass(frozen=True, slots=True)
class ProcessBenchScores:
    """ProcessBench's scores of one judge; a share over no solutions is None.

    Attributes:
        erroneous: labelled solutions that have a wrong step.
        correct: labelled solutions that have none.
        accuracy_erroneous: share of the erroneous ones whose first wrong step was named, in [0, 1].
        accuracy_correct: share of the correct ones in which no step was called wrong, in [0, 1].
        f1: harmonic mean of the two; 0 if both are 0.
        unanswered: solutions of both kinds without a prediction; each counts as a wrong answer.
    """

    erroneous: int
    correct: int
    accuracy_erroneous: float | None
    accuracy_correct: float | None
    f1: float | None
    unanswered: int


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far the critiques of one solution say the same, over the solutions with at least two valid ones.

    Attributes:
        solutions: how many those are.
        same_first: mean over them of the share of pairs of valid critiques that name the same first wrong step (or
            both none), in [0, 1]; None if there are no such solutions.
        steps: mean over them of the verdict's agreement over steps, in [0.5, 1]; None likewise.
    """

    solutions: int
    same_first: float | None
    steps: float | None


def first_wrong(step_error: Sequence[float]) -> int:
    """The first step whose error is at least 0.5.

    Args:
        step_error: e of every step, in [0, 1].

    Returns:
        0-based step, or -1 if there is none.
    """
    return next((step for step, error in enumerate(step_error) if error >= WRONG_FROM), NO_WRONG_STEP)


def processbench_scores(labels: Sequence[int], predictions: Sequence[int | None]) -> ProcessBenchScores:
    """Accuracy on erroneous and on correct solutions, and their harmonic mean F1 = 2ab / (a + b).

    Args:
        labels: first wrong step of every solution, 0-based; -1 if it has none.
        predictions: what the judge says, likewise; None if it gave no verdict, which is a wrong answer.

    Returns:
        The scores.

    Raises:
        ValueError: if the lengths differ, or a label or prediction is below -1.

    Source:
        ProcessBench (arXiv 2412.06559), section 4: accuracies on the two kinds of solutions and their F1.
    """
    if len(labels) != len(predictions):
        raise ValueError(f"got {len(labels)} labels and {len(predictions)} predictions; expected one for each")
    lowest = min([*labels, *(step for step in predictions if step is not None)], default=NO_WRONG_STEP)
    if lowest < NO_WRONG_STEP:
        raise ValueError(f"got the step {lowest}; expected steps from 0, or -1 for none")
    pairs = list(zip(labels, predictions, strict=True))
    on_erroneous = [label == step for label, step in pairs if label != NO_WRONG_STEP]
    on_correct = [label == step for label, step in pairs if label == NO_WRONG_STEP]
    first, second = _share(on_erroneous), _share(on_correct)
    return ProcessBenchScores(
        erroneous=len(on_erroneous),
        correct=len(on_correct),
        accuracy_erroneous=first,
        accuracy_correct=second,
        f1=_harmonic_mean(first, second),
        unanswered=sum(step is None for step in predictions),
    )


def critique_agreement(firsts: Sequence[Sequence[int]], agreements: Sequence[float]) -> Agreement:
    """Mean agreement of the critiques of one solution with each other.

    Args:
        firsts: of every solution, the first wrong step (-1: none) that each of its valid critiques names.
        agreements: of every solution, the agreement of its verdict.

    Returns:
        The means over the solutions with at least two valid critiques.

    Raises:
        ValueError: if the lengths differ.
    """
    rows = [(steps, value) for steps, value in zip(firsts, agreements, strict=True) if len(steps) >= 2]
    pairs = [fmean(one == other for one, other in combinations(steps, 2)) for steps, _ in rows]
    return Agreement(len(rows), fmean(pairs) if rows else None, fmean(value for _, value in rows) if rows else None)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _harmonic_mean(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second > 0 else 0.0
