"""How good a judge is on labelled solutions, by vote rule and number of critiques."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capo_lit.core.errors import DataError
from capo_lit.core.votes import Critiques, VoteRule, tally
from capo_lit.evaluation.judging.scores import NO_WRONG_STEP
from capo_lit.evaluation.judging.step_scores import step_scores

RULES: tuple[VoteRule, ...] = ("intersection", "majority", "union", "average")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A judged solution whose first wrong step is known.

    Attributes:
        critiques: 0-based wrong steps that each critique names; None abstained.
        steps: how many it has.
        label: first wrong step, 0-based; -1 if there is none.
    """

    critiques: tuple[frozenset[int] | None, ...]
    steps: int
    label: int


def labelled_critiques(path: Path | str) -> list[Labelled]:
    """The labelled solutions of an output of `capo critique`.

    Raises:
        DataError: if the file is none, or has no labels.
    """
    try:
        rows = pq.read_table(path, columns=["steps", "label", "critiques"]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{error}", "an output of `capo critique`", str(path)) from error
    found = [Labelled(_named(row["critiques"]), len(row["steps"]), row["label"]) for row in rows if _known(row)]
    if not found:
        raise DataError("no labels", "solutions with a field `label`", str(path), "the file given to `capo critique`")
    return found


def vote_quality(solutions: Sequence[Labelled], rules: Sequence[VoteRule] = RULES) -> pa.Table:
    """Precision and recall of every vote over k = 1 .. K critiques, K the number that all solutions have.

    Only steps up to the label are counted: whether later ones are wrong is not known. With k < K every choice of k
    critiques is scored, so that no critique counts more than another.

    Args:
        solutions: from `labelled_critiques`.
        rules: votes to compare.

    Returns:
        One row per rule and k: vote, k, and the fields of `StepScores` but abstained.

    Raises:
        ValueError: if there is no solution.
    """
    most = min(len(solution.critiques) for solution in solutions)
    rows = [
        {"vote": rule, "k": k, **asdict(step_scores(_findings(solutions, rule, k)))}
        for rule in rules
        for k in range(1, most + 1)
    ]
    return pa.Table.from_pylist(rows).drop_columns("abstained")  # not counted here


def _findings(
    solutions: Iterable[Labelled], rule: VoteRule, k: int
) -> Iterator[tuple[tuple[float, ...], frozenset[int]]]:
    """Step errors of the steps that are known, and which of them are wrong, for every choice of k critiques."""
    for solution in solutions:
        correct = solution.label == NO_WRONG_STEP
        known = solution.steps if correct else solution.label + 1
        truth = frozenset() if correct else frozenset({solution.label})
        for chosen in combinations(solution.critiques, k):
            critiques: Critiques = chosen
            yield tally(critiques, solution.steps, rule).step_error[:known], truth


def _named(critiques: Sequence[dict[str, list[int] | None]]) -> tuple[frozenset[int] | None, ...]:
    return tuple(None if one["wrong"] is None else frozenset(one["wrong"]) for one in critiques)


def _known(row: dict[str, object]) -> bool:
    return row["label"] is not None
