"""The quality of a judge by vote and k, against numbers worked by hand; figures have labelled axes."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from capo_lit.arithmetic.judge import arithmetic_truth
from capo_lit.core.errors import DataError
from capo_lit.evaluation.judging.step_scores import step_scores
from capo_lit.records.curves import read_curves
from capo_lit.records.inspect import Labelled, Rollouts, labelled_critiques, load, vote_quality
from capo_lit.records.inspect.plots import (
    lucky_share,
    plot_curves,
    plot_histories,
    plot_judge,
    plot_lucky,
    plot_quality,
    plot_story,
    plot_tokens,
    right_share,
    wrong_step_share,
)
from tests.support.shipped_runs import DATA


def row_of(table, vote: str, k: int) -> dict:
    (found,) = [row for row in table.to_pylist() if (row["vote"], row["k"]) == (vote, k)]
    return found


def test_precision_and_recall_by_hand() -> None:
    """Two solutions of 3 steps, two critiques each.

    First wrong step 1, critiques {1} and {0, 1, 2}: step 2 lies after the label and is not counted.
    No wrong step, critiques {} and {2}.
    """
    solutions = [
        Labelled((frozenset({1}), frozenset({0, 1, 2})), 3, 1),
        Labelled((frozenset(), frozenset({2})), 3, -1),
    ]
    table = vote_quality(solutions)
    assert len(table) == 4 * 2
    # union of 2: flags 0, 1 | 2: one hit of three flags; the one wrong step is found.
    assert row_of(table, "union", 2)["precision"] == pytest.approx(1 / 3)
    assert row_of(table, "union", 2)["recall"] == 1.0
    # intersection of 2: flags 1 | none.
    assert row_of(table, "intersection", 2) == {
        "vote": "intersection",
        "k": 2,
        "precision": 1.0,
        "recall": 1.0,
        "false_positive": 0.0,
        "exact": 1.0,
    }
    # k = 1, all four single critiques: flags 1 | 0, 1 | - | 2: two hits of four flags; both exact ones are {1} and {}.
    # Right steps: 1 in each look at the first solution, 3 in each at the second: 8, of which two are flagged.
    for vote in ("intersection", "majority", "union", "average"):
        one = row_of(table, vote, 1)
        assert (one["precision"], one["recall"], one["exact"]) == (0.5, 1.0, 0.5)
        assert one["false_positive"] == 2 / 8
    # average of 2: e = 1/2, 1 | 0, 0, 1/2: hits 1 of a weight of 2.
    assert row_of(table, "average", 2)["precision"] == 0.5


def test_an_abstention_does_not_vote() -> None:
    table = vote_quality([Labelled((None, frozenset({0})), 1, 0)], ["intersection"])
    assert row_of(table, "intersection", 2)["recall"] == 1.0
    assert row_of(table, "intersection", 1)["recall"] == 0.5, "the one that abstained flags nothing"


@pytest.mark.slow
def test_the_shipped_judgements_agree_with_the_votes_that_were_written_beside_them() -> None:
    path = DATA / "labelled.critiques.parquet"
    labelled = labelled_critiques(path)
    assert len(labelled) == 96
    table = vote_quality(labelled)
    rows = pq.read_table(path).to_pylist()
    for vote in ("intersection", "majority", "union", "average"):
        found = []
        for row in rows:
            known = len(row["steps"]) if row["label"] == -1 else row["label"] + 1
            truth = frozenset() if row["label"] == -1 else frozenset({row["label"]})
            found.append((row[f"step_error_{vote}"][:known], truth))
        expected, got = step_scores(found), row_of(table, vote, 6)
        assert got["precision"] == pytest.approx(expected.precision)
        assert got["recall"] == pytest.approx(expected.recall)
    assert row_of(table, "intersection", 6)["precision"] > row_of(table, "union", 6)["precision"]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="capo critique"):
        labelled_critiques(DATA / "capo" / "records" / "step-00000000.parquet")
    table = pq.read_table(DATA / "labelled.critiques.parquet")
    unlabelled = table.set_column(table.schema.get_field_index("label"), "label", [[None] * len(table)])
    pq.write_table(unlabelled, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no labels"):
        labelled_critiques(tmp_path / "x.parquet")


def test_the_shares_of_a_figure_by_a_loop() -> None:
    records = list(load(DATA / "capo").where(step=0))
    assert right_share(records) == sum(record.row["outcome"] for record in records) / 64
    errors = [error for record in records for error in record.row["step_error"]]
    assert wrong_step_share(records) == pytest.approx(sum(errors) / len(errors))
    right = [record for record in records if record.row["outcome"] == 1]
    assert lucky_share(records) == sum(any(e >= 0.5 for e in r.row["step_error"]) for r in right) / len(right)
    assert lucky_share(records, arithmetic_truth) == sum(bool(arithmetic_truth(r)) for r in right) / len(right)
    assert lucky_share(list(load(DATA / "grpo").where(step=0))) is None, "nobody judged"


@pytest.mark.slow
def test_every_figure_has_labelled_axes_and_lines(runs: Rollouts) -> None:
    capo = runs.where(run="capo")
    curves = {name: read_curves(DATA / name) for name in runs.runs}
    figures = {
        "story": (plot_story(capo), 4),
        "lucky": (plot_lucky(runs, arithmetic_truth), 2),
        "curves": (plot_curves(curves, {"val/avg_at_k": "avg@8", "reward/outcome_mean": "right"}), 2),
        "quality": (plot_quality(vote_quality(labelled_critiques(DATA / "labelled.critiques.parquet"))), 2),
        "judge": (plot_judge(capo, arithmetic_truth), 2),
        "histories": (plot_histories(capo.verdict_changes()), 1),
    }
    for name, (figure, panels) in figures.items():
        axes = figure.axes
        assert len(axes) == panels, name
        for axis in axes:
            assert axis.get_xlabel(), name
            assert axis.get_ylabel(), name
            assert any(len(line.get_xdata()) > 1 for line in axis.lines), name
    tokens = plot_tokens([capo[0], capo[1]])
    assert [len(axis.patches) >= len(record.tokens) for axis, record in zip(tokens.axes, capo, strict=False)] == [
        True
    ] * 2
