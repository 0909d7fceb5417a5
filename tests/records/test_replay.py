"""Replay: the run's own vote comes out exactly, and other votes as they would have been."""

import math
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.facts import Critique, Rollout
from capo_lit.cli.replay import main
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.core.votes import VoteRule
from capo_lit.genprm.base import critiqued
from capo_lit.records.inspect.loading import load
from capo_lit.records.replay import COLUMNS, replay
from capo_lit.records.schema import file_name, read_records, settings_of, write_atomic
from capo_lit.records.table import batch_table
from tests.support.finished_batch import PROMPT, completion, make_batch
from tests.support.trained_batch import PAPER, credited, trained


@pytest.mark.parametrize("estimator", ["token_pooled", "sequence", "decoupled"])
@pytest.mark.parametrize("rule", ["intersection", "majority", "union", "average", "greedy"])
def test_the_runs_own_vote_and_credit_come_out_exactly(rule: VoteRule, estimator: str) -> None:
    credit = CreditConfig(w_whole=1.7, w_process=0.3, estimator=estimator, std_floor=0.01)
    k = 1 if rule == "greedy" else 4
    steps = [batch_table(trained(rule, credit, step, k), "run") for step in range(3)]
    table = pa.concat_tables(steps)
    again = replay(table, rule, credit=credit)
    for name in ("step_error", "token_rewards", "advantages", "agreement", "valid", "run", "step", "row", "uid"):
        assert again.table[name].to_pylist() == table[name].to_pylist(), name
    assert (again.changed, again.undecided, again.advantage_change, again.k) == (0, 0, 0.0, k)
    # It can also come out differently: other weights move the credit, another vote moves the verdicts.
    assert replay(table, rule).advantage_change > 0
    if rule != "greedy":
        other = "union" if rule == "intersection" else "intersection"
        assert replay(table, other, credit=credit).changed > 0


def test_records_say_what_their_credit_was_and_a_replay_takes_it_step_by_step(tmp_path: Path) -> None:
    # A gate had halved the process weight by the second step.
    for step, w_process in ((0, 0.8), (1, 0.4)):
        credit = CreditConfig(w_whole=1.7, w_process=w_process, estimator="sequence", std_floor=0.01)
        table = batch_table(trained("majority", credit, step), "run", settings={**asdict(credit), "vote": "majority"})
        write_atomic(table, tmp_path / "records" / file_name(step))
    table = read_records(tmp_path / "records", COLUMNS)
    assert [(one["step"], one["w_process"], one["vote"]) for one in settings_of(table)] == [
        (0, 0.8, "majority"),
        (1, 0.4, "majority"),
    ]
    own = replay(table, "majority")
    for name in ("step_error", "token_rewards", "advantages"):
        assert own.table[name].to_pylist() == table[name].to_pylist(), name
    same = replay(table, "majority", credit={"w_whole": 1.7})
    assert same.advantage_change == 0
    assert replay(table, "majority", credit={"w_process": 0.8}).advantage_change > 0
    assert replay(table, "majority", credit=CreditConfig()).advantage_change > 0
    # Opened twice, a run has two names, each with its settings.
    twice = load(tmp_path, tmp_path / "records").replay("majority")
    assert twice.summary.advantage_change == 0
    assert len(settings_of(twice.before.whole)) == 4


def test_another_vote_by_hand() -> None:
    table = batch_table(make_batch(), "toy")
    # Row 0: one valid critique flags step 1 of 2, its other one abstains; row 1: one abstention, outcome unknown.
    own = replay(table, "majority")
    assert own.table["step_error"].to_pylist() == table["step_error"].to_pylist() == [[0.0, 1.0], [0.0]]
    assert own.table["token_rewards"].to_pylist()[0] == table["token_rewards"].to_pylist()[0] == [2.0, 1.0, 2.0]
    assert own.wrong_step_frac == pytest.approx(1 / 3)
    # Weights (3, 2): 3, 3 - 2, 3. Mean over row 0's three tokens, row 1's outcome being unknown: 7/3.
    dearer = replay(table, "majority", credit=CreditConfig(w_whole=3.0, w_process=2.0))
    assert dearer.table["token_rewards"].to_pylist()[0] == [3.0, 1.0, 3.0]
    assert dearer.token_reward == pytest.approx(7 / 3)
    # Pooled over 2, 1, 2: mean 5/3, std sqrt((1/9 + 4/9 + 1/9) / 2) = 1/sqrt(3); the record says 0.5, -1, 0.5.
    flat, peak = (1 / 3) * math.sqrt(3), (2 / 3) * math.sqrt(3)
    assert own.table["advantages"].to_pylist()[0] == pytest.approx([flat, -peak, flat], abs=1e-5)
    assert own.advantage_change == pytest.approx((2 * abs(flat - 0.5) + abs(peak - 1)) / 3, abs=1e-5)


def judged_batch(*critiques: Critique) -> pa.Table:
    rollout = Rollout(0, 0, 0, PROMPT, completion(("a\n\n", "b"), None), 1.0)
    return batch_table(credited([critiqued(rollout, critiques, "union")], PAPER, 0), "run")


def test_fewer_critiques_vote_from_the_first() -> None:
    table = judged_batch(*(Critique("", frozenset(wrong)) for wrong in ({0}, {0, 1}, {1}, {1})))
    errors = {k: replay(table, "majority", k).table["step_error"].to_pylist()[0] for k in (1, 2, 3, 4)}
    # Counts of steps 0 and 1 after k: (1, 0), (2, 1), (2, 2), (2, 3); wrong if 2c >= k.
    assert errors == {1: [1.0, 0.0], 2: [1.0, 1.0], 3: [1.0, 1.0], 4: [1.0, 1.0]}
    assert replay(table, "intersection", 2).table["step_error"].to_pylist() == [[1.0, 0.0]]
    assert replay(table, "greedy", 1).table["step_error"].to_pylist() == [[1.0, 0.0]]


def test_what_the_run_called_off_is_said_where_it_could_matter() -> None:
    # Union was settled by the first of three, the others were aborted.
    missing = Critique("", None, "aborted")
    table = judged_batch(Critique("", frozenset({0, 1})), missing, missing)
    assert replay(table, "union").undecided == 0
    other = replay(table, "intersection")
    assert (other.undecided, other.table["decided"].to_pylist(), other.table["valid"].to_pylist()) == (1, [False], [1])
    assert replay(table, "intersection", 1).undecided == 0


def test_records_without_credit_or_judge() -> None:
    predictions = batch_table(make_batch(), "toy")
    index = predictions.schema.get_field_index("advantages")
    nothing = pa.nulls(len(predictions), predictions.schema.field(index).type)
    assert math.isnan(replay(predictions.set_column(index, "advantages", nothing), "union").advantage_change)
    with pytest.raises(DataError, match="no critiques in row 0"):
        replay(batch_table(make_batch(verdicts=False), "toy"), "union")


@pytest.mark.parametrize(("rule", "k", "message"), [("union", 3, "k 3; expected 1 to 2"), ("greedy", 2, "greedy")])
def test_votes_that_the_records_cannot_give_are_refused(rule: VoteRule, k: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replay(batch_table(make_batch(), "toy"), rule, k)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records, output = tmp_path / "records", tmp_path / "out.parquet"
    for step in (0, 1):
        write_atomic(batch_table(trained("majority", step=step), "run"), records / file_name(step))
    assert main([str(records), "--output", str(output), "--k", "3"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in ("recorded", "intersection", "majority", "union", "average"))
    assert "16 recorded rollouts, k 3" in shown
    assert "The records do not say the run's" in " ".join(shown.split())
    written = pa.parquet.read_table(output)
    assert written["vote"].to_pylist() == [
        v for v in ("intersection", "majority", "union", "average") for _ in range(16)
    ]
    direct = replay(read_records(records), "union", 3)
    assert written.slice(32, 16)["advantages"].to_pylist() == direct.table["advantages"].to_pylist()
    assert main([str(records), "--output", str(output)]) == 1
    assert "a file that exists" in capsys.readouterr().err
    assert main([str(tmp_path / "none"), "--vote", "union"]) == 1
    assert main([str(records), "--vote", "majority", "--w_process", "-1"]) == 1
