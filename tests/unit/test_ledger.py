"""The judge's ledger in CritiqueCallback: what is summed, saved and resumed, and who counts as mute."""

from types import SimpleNamespace

import pytest

from capo_lit.batch import Critique, CritiquedRollout, Rollout, StepBatch
from capo_lit.callbacks.critique import CritiqueCallback
from capo_lit.core.steps import split_steps
from capo_lit.errors import JudgeError
from capo_lit.genprm.base import StepJudge, critiqued
from capo_lit.metrics import METRICS
from tests.builders import make_rollout

ABORTED = Critique("", None, "aborted")
ASKED = Critique("fine", frozenset(), "", 100, 10)
STORED = Critique("fine", frozenset(), "", 100, 10, cached=True)
MUTE = Critique("?", None, "parse", 100, 10)


class Scripted(StepJudge):
    """Gives every rollout the same critiques."""

    def __init__(self, *critiques: Critique) -> None:
        self.critiques = critiques

    def judge(self, rollouts, seed):
        for rollout in rollouts:
            yield critiqued(rollout, split_steps(rollout.completion.text), self.critiques, "union")


def logged(callback: CritiqueCallback, step: int = 0) -> dict[str, float]:
    """The metrics of one step of two rollouts, one of unknown outcome."""
    rollouts: list[Rollout] = [make_rollout(0), make_rollout(1, outcome=None)]
    batch = StepBatch([rollouts[0].prompt], step)
    batch.set_rollouts(rollouts)
    seen: dict[str, float] = {}
    module = SimpleNamespace(log_metrics=lambda values, size: seen.update(values))
    callback.on_train_batch_start(None, module, batch, 0)
    callback.on_train_batch_end(None, module, None, batch, 0)
    assert set(seen) <= set(METRICS)
    return seen


def test_the_ledger_of_a_step() -> None:
    seen = logged(CritiqueCallback(Scripted(ASKED, STORED, ABORTED, ASKED)))
    # Per rollout 3 asked (1 aborted) of 4; twice 110 tokens. Only the first rollout's 4 tokens are trained on.
    assert (seen["critique/asked"], seen["critique/aborted"], seen["critique/cached_frac"]) == (6, 2, 0.25)
    assert (seen["critique/judge_prompt_tokens"], seen["critique/judge_completion_tokens"]) == (400, 40)
    assert seen["critique/judge_tokens_per_trained_token"] == 440 / 4
    assert seen["critique/abstain_frac"] == 0


def test_the_ledger_of_the_run_goes_on_when_it_is_resumed() -> None:
    first = CritiqueCallback(Scripted(ASKED, STORED))
    assert [logged(first, step)["critique/judge_tokens_run"] for step in (0, 1)] == [220, 440]
    resumed = CritiqueCallback(Scripted(ASKED))
    resumed.load_state_dict(first.state_dict())
    assert logged(resumed)["critique/judge_tokens_run"] == 660


@pytest.mark.parametrize(("critiques", "mute"), [((MUTE, ASKED, ABORTED, ABORTED), 2), ((MUTE, ABORTED), 2)])
def test_aborted_critiques_make_no_judge_mute_and_hide_none(critiques: tuple[Critique, ...], mute: int) -> None:
    answered = 2 * sum(not critique.aborted for critique in critiques)
    share = mute / answered
    assert logged(CritiqueCallback(Scripted(*critiques), max_abstain_frac=share))["critique/abstain_frac"] == share
    with pytest.raises(JudgeError, match=rf"got {mute} of {answered} critiques without a verdict \(causes: parse\)"):
        logged(CritiqueCallback(Scripted(*critiques), max_abstain_frac=share - 0.01))


def test_the_verdict_leaves_aborted_critiques_out() -> None:
    item: CritiquedRollout = critiqued(make_rollout(0), [(0, 3), (3, 4)], (ASKED, ABORTED, MUTE), "majority")
    assert (item.verdict.valid, item.verdict.abstained, len(item.critiques)) == (1, 1, 3)
