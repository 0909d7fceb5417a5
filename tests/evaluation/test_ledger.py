"""The judge's ledger in CritiqueCallback: what is summed, saved and resumed, and who counts as mute."""

from types import SimpleNamespace

import pytest

from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import JudgeError
from capo_lit.evaluation.names import METRICS
from capo_lit.evaluation.reduction import reduced
from capo_lit.genprm.base import StepJudge, critiqued
from capo_lit.training.callbacks.critique import CritiqueCallback
from tests.support.builders import make_rollout

ABORTED = Critique("", None, "aborted", seconds=2.0)
ASKED = Critique("fine", frozenset(), "", 100, 10, seconds=0.5)
STORED = Critique("fine", frozenset(), "", 100, 10, cached=True)
MUTE = Critique("?", None, "parse", 100, 10)


class Scripted(StepJudge):
    """Gives every rollout the same critiques."""

    def __init__(self, *critiques: Critique) -> None:
        self.critiques = critiques

    def judge(self, rollouts, seed):
        for rollout in rollouts:
            yield critiqued(rollout, self.critiques, "union")


def logged(callback: CritiqueCallback, step: int = 0) -> dict[str, float]:
    """The metrics of one step of two rollouts, one of unknown outcome."""
    rollouts: list[Rollout] = [make_rollout(0), make_rollout(1, outcome=None)]
    batch = StepBatch([rollouts[0].prompt], step)
    batch.set_rollouts(rollouts)
    seen: dict[str, float] = {}
    module = SimpleNamespace(measure=lambda parts: seen.update(reduced(parts)))
    callback.on_train_batch_start(None, module, batch, 0)
    callback.on_train_batch_end(None, module, None, batch, 0)
    assert set(seen) <= set(METRICS)
    return seen


def test_the_ledger_of_a_step() -> None:
    seen = logged(CritiqueCallback(Scripted(ASKED, STORED, ABORTED, ASKED)))
    # Per rollout 3 asked (1 aborted) of 4; twice 110 tokens. Only the first rollout's 4 tokens are trained on.
    assert (seen["critique/asked"], seen["critique/aborted"], seen["critique/cached_frac"]) == (6, 2, 0.25)
    assert (seen["critique/judge_prompt_tokens"], seen["critique/judge_completion_tokens"]) == (400, 40)
    assert seen["critique/judge_tokens_run"] == 440
    assert seen["critique/judge_tokens_per_trained_token_run"] == 440 / 4
    assert seen["critique/abstain_frac"] == 0


def test_the_ledger_of_the_run_is_the_sum_of_its_steps_and_goes_on_when_it_is_resumed() -> None:
    first = CritiqueCallback(Scripted(ASKED, STORED, ABORTED))
    assert [logged(first, step)["critique/judge_tokens_run"] for step in (0, 1)] == [220, 440]
    resumed = CritiqueCallback(Scripted(ASKED))
    resumed.load_state_dict(first.state_dict())
    seen = logged(resumed)
    # Three steps of two rollouts, with one critique each that the judge finished.
    assert seen["critique/judge_tokens_run"] == 660
    assert seen["critique/judge_tokens_per_trained_token_run"] == 660 / 12  # 4 tokens of known outcome in each step
    assert seen["time/critique_s"] > 0


def test_a_checkpoint_of_before_the_ledger_goes_on_with_its_tokens() -> None:
    resumed = CritiqueCallback(Scripted(ASKED))
    resumed.load_state_dict({"judge_tokens": 1000.0})
    seen = logged(resumed)
    assert seen["critique/judge_tokens_run"] == 1220


def test_evaluations_cost_too_and_train_no_token() -> None:
    callback = CritiqueCallback(Scripted(ASKED), eval_judge=Scripted(ASKED, ASKED, ASKED))
    logged(callback)
    held_out = StepBatch([make_rollout(0).prompt], 0)
    held_out.set_rollouts([make_rollout(0)])
    callback.on_validation_batch_start(None, None, held_out, 0)
    seen = logged(callback, step=1)
    # Two steps of two critiques and an evaluation of three; only the two steps train 4 tokens each.
    assert (seen["critique/asked"], seen["critique/judge_tokens_run"]) == (2, 7 * 110)
    assert seen["critique/judge_tokens_per_trained_token_run"] == 7 * 110 / 8


def test_a_rule_has_no_engine_whose_failures_could_have_causes() -> None:
    seen = logged(CritiqueCallback(Scripted(ASKED)))
    assert {name for name in seen if "/failed_" in name} == {"critique/failed_attempts"}
    assert seen["critique/failed_attempts"] == 0


@pytest.mark.parametrize(("critiques", "mute"), [((MUTE, ASKED, ABORTED, ABORTED), 2), ((MUTE, ABORTED), 2)])
def test_aborted_critiques_make_no_judge_mute_and_hide_none(critiques: tuple[Critique, ...], mute: int) -> None:
    answered = 2 * sum(not critique.aborted for critique in critiques)
    share = mute / answered
    assert logged(CritiqueCallback(Scripted(*critiques), max_abstain_frac=share))["critique/abstain_frac"] == share
    said = rf"got {mute} of {answered} critiques without a verdict \(causes: {mute} x parse\)"
    with pytest.raises(JudgeError, match=said):
        logged(CritiqueCallback(Scripted(*critiques), max_abstain_frac=share - 0.01))


def test_the_verdict_leaves_aborted_critiques_out() -> None:
    item: CritiquedRollout = critiqued(make_rollout(0), (ASKED, ABORTED, MUTE), "majority")
    assert (item.verdict.valid, item.verdict.abstained, len(item.critiques)) == (1, 1, 3)
