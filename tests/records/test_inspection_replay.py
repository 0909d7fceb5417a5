"""Replaying recorded critiques of real runs under another vote and other weights."""

import pytest

from capo_lit.batch.credit import CreditConfig
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.records.inspect import Rollouts, load
from tests.support.shipped_runs import DATA


def test_the_runs_own_vote_and_credit_replay_to_what_was_recorded(runs: Rollouts) -> None:
    """The run voted by majority with the paper's weights."""
    same = runs.where(step=12).replay("majority", credit=CreditConfig())
    assert len(same.before) == len(same.after) == 64
    assert same.changed() == []
    assert same.after.table.equals(same.before.table)


def test_another_vote_shows_what_changes(runs: Rollouts) -> None:
    replayed = runs.where(step=12, outcome="right").replay("intersection")
    changed = replayed.changed(1000)
    assert changed
    for before, after in changed:
        assert before.key == after.key
        assert before.row["advantages"] != after.row["advantages"]
    flagged = [sum(sum(r.row["step_error"]) for r in side) for side in (replayed.before, replayed.after)]
    assert flagged[1] < flagged[0], "fewer steps are called wrong if all critiques must agree"
    # All errors of one rollout, voted by hand.
    before, after = changed[0]
    named = [set(critique.wrong) for critique in before.critiques if critique.wrong is not None]
    assert [step.index for step in after.steps if step.called_wrong] == sorted(set.intersection(*named))


def test_a_replay_of_some_is_of_their_groups_alone(runs: Rollouts) -> None:
    everything = runs.where(run="capo").replay("union")
    some = runs.where(run="capo", step=12, outcome="right").replay("union")
    groups = {(r.row["step"], r.row["group"]) for r in some.before}
    assert {(row["step"], row["group"]) for row in some.summary.table.to_pylist()} == groups
    assert len(some.summary.table) == 8 * len(groups), "wrong samples too: they are what right ones are compared with"
    assert everything.summary.changed > some.summary.changed
    alike = [record.row for record in everything.after if record.row["step"] == 12 and record.outcome == "right"]
    assert [record.row for record in some.after] == alike
    assert "the groups of these rollouts" in some._repr_html_()


def test_other_weights_change_rewards_and_no_verdict(runs: Rollouts) -> None:
    harsh = runs.where(run="capo", step=12).replay("majority", credit=CreditConfig(w_process=2.0))
    pairs = harsh.changed(1000)
    assert pairs
    for before, after in pairs:
        assert after.row["step_error"] == before.row["step_error"]
    before, after = next(pair for pair in pairs if any(step.called_wrong for step in pair[0].steps))
    step = next(step for step in after.steps if step.called_wrong)
    whole = 2.0 if after.outcome == "right" else 0.0
    assert {token.reward for token in step.tokens} == {whole - 2.0}


def test_what_cannot_be_replayed_is_refused(runs: Rollouts) -> None:
    with pytest.raises(DataError, match="no rollout that was judged"):
        load(DATA / "grpo").replay("union")
    with pytest.raises(ConfigError, match="k 9"):
        runs.replay("union", k=9)
