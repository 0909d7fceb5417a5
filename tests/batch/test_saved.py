"""A batch as plain data, and back: nothing is lost, whatever the number of processes that saved it."""

import io

import pytest
import torch

from capo_lit.batch.facts import Critique, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.saved import batch_state, restored
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.genprm.base import critiqued
from tests.support.builders import make_completion, make_prompt

PROMPTS = [make_prompt(f"p{index}", ids=(1, 2 + index)) for index in range(4)]
ABOUT = pytest.approx(1.5, abs=0.1)  # what readers wait for is added
CRITIQUES = [Critique("\\boxed{1}", frozenset({1}), "", 9, 5, 0.25), Critique("?", None, "parse", cached=True)]


def filled(prompts=PROMPTS, step=7, verdicts=True) -> StepBatch:
    """Two rollouts of each prompt."""
    batch = StepBatch(prompts, step)
    rollouts = [
        Rollout(
            2 * group + sample, group, sample, prompt, make_completion(logprobs=(-0.1, -1 / 3, -0.7, -1e-9), version=6),
            [1.0, None][sample], outcome_critiques=(CRITIQUES[0],) * sample,
        )
        for group, prompt in enumerate(prompts) for sample in range(2)
    ]  # fmt: skip
    batch.set_rollouts(reversed(rollouts), Sampling(temperature=0.7, max_tokens=40))
    if verdicts:
        batch.set_verdicts([critiqued(rollout, CRITIQUES, "union") for rollout in batch.stream_rollouts()])
    batch.require_rollouts()
    batch.rollout_seconds, batch.critique_seconds, batch.outcome_counts = 1.5, 0.5, {"yes": 3.0}
    return batch


def through_a_checkpoint(states):
    file = io.BytesIO()
    torch.save({"rollouts_ahead": states}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["rollouts_ahead"]


@pytest.mark.parametrize("verdicts", [True, False])
def test_what_is_saved_comes_back_equal(verdicts):
    batch = filled(verdicts=verdicts)
    back = restored(through_a_checkpoint([batch_state(batch)]), PROMPTS, step=7)
    assert back.require_rollouts() == batch.require_rollouts()
    assert back.has_verdicts == verdicts
    if verdicts:
        assert back.require_verdicts() == batch.require_verdicts()
    assert (back.sampling, back.rollout_seconds, back.critique_seconds) == (batch.sampling, ABOUT, 0.5)
    assert back.outcome_counts == {"yes": 3.0}


def test_another_number_of_processes_deals_the_same_rollouts_out_anew():
    two = through_a_checkpoint([batch_state(filled(PROMPTS[0::2])), batch_state(filled(PROMPTS[1::2]))])
    assert restored(two, PROMPTS, step=7).require_verdicts() == filled().require_verdicts()
    one = through_a_checkpoint([batch_state(filled())])
    assert restored(one, PROMPTS[1::2], step=7).require_rollouts() == filled(PROMPTS[1::2]).require_rollouts()


def test_another_step_or_other_prompts_are_refused():
    states = [batch_state(filled())]
    with pytest.raises(BatchError, match=r"step \[7\].*step 8"):
        restored(states, PROMPTS, step=8)
    with pytest.raises(BatchError, match=r"1 prompts \['strange'\]"):
        restored(states, [*PROMPTS, make_prompt("strange")], step=7)


def test_a_batch_takes_over_what_was_gathered_for_it_and_nothing_else():
    batch = StepBatch(PROMPTS, 7)
    batch.take_over(filled())
    assert batch.require_verdicts() == filled().require_verdicts()
    assert (batch.rollout_seconds, batch.critique_seconds) == (ABOUT, 0.5)
    for other in (StepBatch(PROMPTS, 8), StepBatch(PROMPTS[:3], 7)):
        with pytest.raises(BatchError, match="sampled ahead for step 7"):
            other.take_over(filled())
