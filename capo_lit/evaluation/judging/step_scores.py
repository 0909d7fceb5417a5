"""How well a judge finds wrong steps where all of them are known: precision and recall over steps."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepScores:
    """How well wrong steps are found, over all steps of all solutions.

    Attributes:
        precision: share of wrong steps among the flagged weight; 1 if nothing is flagged.
        recall: share of the wrong steps' weight that is flagged; 1 if nothing is wrong.
        false_positive: mean step error given to right steps.
        exact: share of solutions whose every step has the right step error.
        abstained: share of critiques without a verdict.
    """

    precision: float
    recall: float
    false_positive: float
    exact: float
    abstained: float


def step_scores(found: Iterable[tuple[Sequence[float], frozenset[int]]], abstained: float = 0.0) -> StepScores:
    """Score step errors against the truth; a fractional error (the average vote) counts as that part of a flag.

    Args:
        found: per solution the step error of every step, in [0, 1], and its wrong steps.
        abstained: share of critiques without a verdict, passed on.

    Returns:
        The scores; precision is hits / flagged and recall hits / wrong, in weights of steps.

    Raises:
        ValueError: if there is no solution.
    """
    hits = flagged = wrong = steps = 0.0
    exact: list[bool] = []
    for errors, truth in found:
        hits += sum(errors[step] for step in truth)
        flagged, wrong, steps = flagged + sum(errors), wrong + len(truth), steps + len(errors)
        exact.append(all(error == float(step in truth) for step, error in enumerate(errors)))
    return StepScores(
        precision=hits / flagged if flagged else 1.0,
        recall=hits / wrong if wrong else 1.0,
        false_positive=(flagged - hits) / (steps - wrong) if steps > wrong else 0.0,
        exact=statistics.mean(exact),
        abstained=abstained,
    )
