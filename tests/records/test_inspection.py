"""Inspection: what is loaded, filtered, found and replayed from the records of real runs and of one made by hand."""

from pathlib import Path

import pyarrow as pa
import pytest

from capo_lit.arithmetic.judge import arithmetic_truth
from capo_lit.core.errors import DataError
from capo_lit.records.inspect import Record, Rollouts, load
from capo_lit.records.schema import file_name, write_atomic
from capo_lit.records.table import batch_table
from tests.support.finished_batch import make_batch


def keys(rollouts: Rollouts) -> list[tuple[str, int, int, int]]:
    return [record.key for record in rollouts]


def test_runs_are_loaded_from_run_folders_record_folders_and_files(tmp_path: Path) -> None:
    path = tmp_path / "a" / "toy" / "records" / file_name(12)
    write_atomic(batch_table(make_batch(12), "toy"), path)
    write_atomic(batch_table(make_batch(13), "toy"), path.with_name(file_name(13)))
    for source in (path.parent.parent, path.parent):
        assert keys(load(source)) == [("toy", 12, 0, 0), ("toy", 12, 0, 1), ("toy", 13, 0, 0), ("toy", 13, 0, 1)]
    assert keys(load(path)) == [("toy", 12, 0, 0), ("toy", 12, 0, 1)]
    assert {record.row["step"] for record in load(path.parent, steps=range(13, 99))} == {13}
    with pytest.raises(DataError, match="no files step"):
        load(tmp_path / "nothing")
    with pytest.raises(DataError, match="at least one"):
        load()


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        write_atomic(batch_table(make_batch(), "toy"), tmp_path / parent / "toy" / "records" / file_name(12))
    both = load(tmp_path / "a" / "toy", tmp_path / "b" / "toy")
    assert both.runs == [str(tmp_path / "a" / "toy"), str(tmp_path / "b" / "toy")]
    assert len(both.where(run=both.runs[1])) == 2


def test_a_record_by_hand() -> None:
    """make_batch: tokens "a¶¶", "b" and an end token in steps (0, 3) and (3, 4); the second step was called wrong."""
    first, second = (Record(row) for row in batch_table(make_batch(), "toy").to_pylist())
    assert [(step.index, step.text, step.error, len(step.tokens)) for step in first.steps] == [
        (0, "a\n\n", 0.0, 1),
        (1, "b", 1.0, 1),
    ]
    assert [(token.step, token.reward, token.advantage) for token in first.tokens] == [
        (0, 2.0, 0.5),
        (1, 1.0, -1.0),
        (-1, 2.0, 0.5),
    ]
    assert first.votes == (("right", "abstained"), ("wrong", "abstained"))
    assert (first.outcome, second.outcome) == ("right", "unknown")
    assert first.peak_advantage == 1.0
    assert second.tokens[0].engine_logprob is None


def test_a_rollout_that_nobody_judged_has_paragraphs_and_no_votes() -> None:
    record = Record(batch_table(make_batch(verdicts=False), "toy").to_pylist()[0])
    assert not record.judged
    assert [(step.text, step.error, step.called_wrong) for step in record.steps] == [
        ("a\n\n", None, False),
        ("b", None, False),
    ]
    assert record.disagreement is None
    assert record.votes == ((), ())


def test_a_called_off_critique_is_no_vote() -> None:
    row = batch_table(make_batch(), "toy").to_pylist()[0]
    row["critiques"][1]["cause"] = "aborted"
    assert Record(row).votes == (("right", "called off"), ("wrong", "called off"))


def test_filters_agree_with_a_loop_over_the_rows(runs: Rollouts) -> None:
    """Every filter against its plain definition."""
    rows = list(runs)

    def check(found: Rollouts, wanted: list[Record]) -> None:
        assert keys(found) == [record.key for record in wanted]
        assert 0 < len(wanted) < len(rows)

    check(runs.where(run="grpo"), [r for r in rows if r.row["run"] == "grpo"])
    check(runs.where(step=12), [r for r in rows if r.row["step"] == 12])
    check(runs.where(step=range(1, 14)), [r for r in rows if 1 <= r.row["step"] < 14])
    check(runs.where(outcome="wrong"), [r for r in rows if r.row["outcome"] == 0])
    check(runs.where(min_disagreement=0.1), [r for r in rows if (r.disagreement or 0) >= 0.1])
    check(runs.where(min_advantage=3.0), [r for r in rows if r.peak_advantage >= 3.0])
    uid = rows[0].row["uid"]
    check(runs.where(uid=uid), [r for r in rows if r.row["uid"] == uid])
    # "WRONG" is in critiques alone, which grpo does not have.
    check(runs.where(text="WRONG"), [r for r in rows if any("wrong" in c.reply for c in r.critiques)])
    check(
        runs.where(run="capo", outcome="right").where(step=39),
        [r for r in rows if r.row["run"] == "capo" and r.row["outcome"] == 1 and r.row["step"] == 39],
    )
    assert len(runs.where(outcome="unknown")) == 0
    assert list(runs.where(text="no such text")) == []


def test_text_is_no_pattern(runs: Rollouts) -> None:
    """A dot or a bracket stands for itself."""
    assert len(runs.where(text="\\boxed{", run="capo")) > 0
    assert len(runs.where(text="1.+", run="capo")) == 0


def test_the_most_disagreed_and_the_largest_advantages_come_first(runs: Rollouts) -> None:
    disputed = [record.disagreement for record in runs.most_disagreed(5)]
    everyone = sorted((r.disagreement for r in runs if r.disagreement), reverse=True)
    assert disputed == everyone[:5]
    peaks = [record.peak_advantage for record in runs.largest_advantages(5)]
    assert peaks == sorted((r.peak_advantage for r in runs), reverse=True)[:5]
    agreed = runs.where(run="grpo")
    assert len(agreed.most_disagreed()) == 0, "nobody judged, so nobody disagreed"


def test_false_positives_are_right_answers_with_a_step_called_wrong(runs: Rollouts) -> None:
    suspects = runs.false_positives(10_000)
    wanted = {r.key for r in runs if r.row["outcome"] == 1 and any(e >= 0.5 for e in r.row["step_error"] or ())}
    assert set(keys(suspects)) == wanted
    assert len(wanted) > 10
    counts = [sum(step.called_wrong for step in record.steps) for record in suspects]
    assert counts == sorted(counts, reverse=True)
    innocent = runs.false_positives(10_000, truth=arithmetic_truth)
    assert 0 < len(innocent) < len(suspects)
    # Read by hand: every step of it is right, and the vote called step 0 wrong.
    sound = runs.where(step=26).false_positives(1, truth=arithmetic_truth)[0]
    assert sound.row["text"] == "6-2=4\n\n4+8=12\n\n12-7=5\n\n5-3=2\n\n2+4=6\n\n\\boxed{6}"
    assert [step.called_wrong for step in sound.steps] == [True, False, False, False, False, False]


def test_lucky_answers_need_no_judge(runs: Rollouts) -> None:
    """13-7=16 and 18+3=11 are wrong, and the answer is right."""
    found = runs.where(run="grpo", step=12, text="13-7=16").lucky(1, arithmetic_truth)[0]
    assert found.row["text"] == "10+3=13\n\n13-7=16\n\n16-4=12\n\n12+6=18\n\n18+3=11\n\n\\boxed{11}"
    assert arithmetic_truth(found) == {1, 4}


def test_a_group_is_all_samples_of_a_prompt_at_a_step(runs: Rollouts) -> None:
    record = runs.where(run="capo", step=26, outcome="right").largest_advantages(1)[0]
    group = runs.where(outcome="right").group_of(record)
    assert [one.row["sample"] for one in group] == list(range(8))
    assert {(*one.key[:3], one.row["uid"]) for one in group} == {(*record.key[:3], record.row["uid"])}


def test_the_prompts_whose_verdict_changed(runs: Rollouts) -> None:
    """The 16 prompts come at four steps each; changes are recomputed from the rows."""
    histories = runs.verdict_changes()
    assert 0 < len(histories) <= 16
    assert [abs(h.change) for h in histories] == sorted((abs(h.change) for h in histories), reverse=True)
    first = histories[0]
    assert first.run == "capo", "grpo was not judged"
    for visit in first.visits:
        rows = list(runs.where(run="capo", uid=first.uid, step=visit.step))
        errors = [error for record in rows for error in record.row["step_error"]]
        assert visit.wrong_steps == pytest.approx(sum(errors) / len(errors))
        assert visit.right == sum(record.row["outcome"] for record in rows) / 8
    assert len(first.visits) == 4
    assert runs.verdict_changes(min_change=1.0) == []
    assert runs.where(step=0).verdict_changes() == [], "seen once"


def test_what_is_not_there_is_said(runs: Rollouts) -> None:
    assert runs[-1].key == runs[len(runs) - 1].key
    with pytest.raises(IndexError, match="rollout 0 of 0; filters may have left none"):
        runs.where(text="nobody wrote this")[0]


def test_a_disagreement_is_not_missed_by_rounding(runs: Rollouts) -> None:
    """1 - 0.8 in float32 is less than 0.2."""
    column = runs.whole.schema.get_field_index("agreement")
    values = pa.array([0.8] * len(runs.whole), pa.float32())
    table = runs.whole.set_column(column, runs.whole.schema.field(column), values)
    found = Rollouts(table, runs.rows).where(min_disagreement=0.2)
    assert len(found) == len(runs)
    assert found[0].disagreement == 0.2
    assert found.overview()["disagreement"][0].as_py() == pytest.approx(0.2)


def test_the_overview_says_of_every_row_what_the_record_says(runs: Rollouts) -> None:
    some = runs.where(step=26)
    for row, record in zip(some.overview().to_pylist(), some, strict=True):
        assert (row["run"], row["step"], row["rank"], row["row"]) == record.key
        assert row["outcome"] == record.outcome
        assert row["tokens"] == len(record.tokens)
        assert row["peak_advantage"] == pytest.approx(record.peak_advantage)
        judged = record.judged
        assert row["wrong_steps"] == (sum(step.called_wrong for step in record.steps) if judged else None)
        assert row["steps"] == (len(record.steps) if judged else None)
        assert row["critiques"] == (len(record.critiques) if judged else None)
        assert row["disagreement"] == (pytest.approx(record.disagreement, abs=1e-6) if judged else None)


def test_nothing_found_is_empty_and_not_an_error(runs: Rollouts) -> None:
    none = runs.where(step=999)
    assert len(none) == 0
    assert isinstance(none.overview(), pa.Table)
    assert "0 rollouts" in none._repr_html_()
    assert len(none.most_disagreed()) == 0
