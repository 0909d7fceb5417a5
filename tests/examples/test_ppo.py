"""PPOModule on a tiny random model: what its advantages are, and where its gradients go."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.training.settings import LossConfig, UpdateConfig
from examples.ppo.module import PPOConfig
from examples.ppo.value import ValueModel
from tests.support.ppo_world import Watched, fit
from tests.training.test_module import GROUPS, make_batch, train


def test_the_first_advantages_are_the_returns_for_the_head_starts_at_zero(folder):
    batch = make_batch(judged=False)
    module = fit(folder, batch)
    credit = batch.require_credit()
    # Right rollouts are worth 2 on every token, wrong ones 0; the reward itself stands on the last token.
    outcomes = [outcome for group in GROUPS for outcome, *_ in group]
    lengths = [len(pieces) for group in GROUPS for *_, pieces in group]
    for row, (outcome, length) in enumerate(zip(outcomes, lengths, strict=True)):
        assert credit.advantages[row, :length].tolist() == [2 * outcome] * length
        assert credit.token_rewards[row, :length].tolist() == [0.0] * (length - 1) + [2 * outcome]
    assert not credit.advantages[~credit.mask].any()
    assert module.logged["value/mean"] == 0.0
    assert module.logged["value/explained_variance"] == 0.0
    right = sum(length for outcome, length in zip(outcomes, lengths, strict=True) if outcome)
    assert module.logged["value/return_mean"] == pytest.approx(2 * right / sum(lengths))
    # (0 - 2)^2 / 2 on the tokens of right rollouts.
    assert module.logged["value/loss"] == pytest.approx(2 * right / sum(lengths))


def test_values_are_those_before_the_token_is_drawn(folder):
    policy = AutoModelForCausalLM.from_pretrained(folder)
    model = ValueModel(policy)
    torch.nn.init.normal_(model.head.weight)
    values = model([(1, 2), (1, 2, 3)], [(4, 5, 6), (7,)])
    assert values.shape == (2, 3)
    assert not values[1, 1:].any()
    # One row alone, and its own backbone by hand: the first value has seen the prompt alone.
    hidden = policy.base_model(input_ids=torch.tensor([[1, 2, 4, 5, 6]])).last_hidden_state
    torch.testing.assert_close(values[0], model.head(hidden)[0, 1:4, 0], atol=1e-5, rtol=1e-5)
    other = model([(1, 2)], [(9, 5, 6)])
    torch.testing.assert_close(other[0, 0], values[0, 0], atol=1e-5, rtol=1e-5)
    assert (other[0, 1:] - values[0, 1:]).abs().min() > 1e-4


def test_the_policy_learns_from_the_clipped_loss_alone_and_the_value_from_its_own(folder):
    # A value loss a thousand times as large does not touch the policy's gradient.
    small, large = make_batch(judged=False), make_batch(judged=False)
    one = fit(folder, small, credit=CreditConfig(w_whole=2.0, w_process=0.0), ppo=PPOConfig(value_lr=1e-2))
    two = fit(folder, large, credit=CreditConfig(w_whole=2000.0, w_process=0.0), ppo=PPOConfig(value_lr=1e-2))
    assert two.logged["value/loss"] == pytest.approx(1e6 * one.logged["value/loss"], rel=1e-4)
    for name, gradient in one.gradient.items():
        if name.startswith("policy."):
            torch.testing.assert_close(gradient, two.gradient[name], atol=1e-6, rtol=1e-4, msg=name)
    assert one.gradient["value.head.bias"].abs() > 0


@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_gradients_do_not_depend_on_microbatches(folder, aggregation, clip):
    settings = {
        "loss": LossConfig(aggregation=aggregation),
        "credit": CreditConfig(),
        "ppo": PPOConfig(value_lr=1e-2, lam=0.9, gamma=0.99, value_clip=clip),
    }

    def gradients(budget):
        torch.manual_seed(1)
        module = Watched(folder, update=UpdateConfig(tokens_per_microbatch=budget), **settings)
        torch.nn.init.normal_(module.value.head.weight)
        train(module, make_batch())
        return module.gradient

    whole, split = gradients(10**6), gradients(8)
    for name, gradient in whole.items():
        # What rounding leaves of a sum is measured by its largest term, and differs between processors.
        rounding = 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(
            gradient, split[name], atol=rounding, rtol=1e-4, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_a_rollout_of_unknown_outcome_leaves_the_loss(folder):
    unknown = [[*GROUPS[0][:2], (None, (1.0,), GROUPS[0][2][2])], GROUPS[1]]
    batch = make_batch(unknown, judged=False)
    module = fit(folder, batch, ppo=PPOConfig(value_lr=1e-2))
    credit = batch.require_credit()
    assert not credit.mask[2].any()
    assert not credit.advantages[2].any()
    rows = [r for r in batch.require_rollouts() if r.outcome is not None]
    known = StepBatch(batch.prompts, step=0)
    known.set_rollouts([replace(rollout, row=row) for row, rollout in enumerate(rows)], batch.sampling)
    other = fit(folder, known, ppo=PPOConfig(value_lr=1e-2))
    for name, gradient in module.gradient.items():
        torch.testing.assert_close(gradient, other.gradient[name], atol=1e-6, rtol=1e-4, msg=name)


def test_a_batch_without_any_known_outcome_changes_nothing(folder):
    groups = [[(None, *rest) for _, *rest in group] for group in GROUPS]
    before = {name: p.clone() for name, p in Watched(folder).named_parameters()}
    module = fit(folder, make_batch(groups, judged=False), ppo=PPOConfig(value_lr=1e-2))
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())


def test_whitened_advantages_have_mean_0_and_deviation_1(folder):
    batch = make_batch(judged=False)
    fit(folder, batch, ppo=PPOConfig())
    credit = batch.require_credit()
    tokens = credit.advantages[credit.mask].double()
    assert float(tokens.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(tokens.std(correction=0)) == pytest.approx(1.0, abs=1e-5)


def test_wrong_steps_are_dense_rewards_and_need_a_judge(folder):
    batch = make_batch()
    fit(folder, batch, credit=CreditConfig(w_whole=2.0, w_process=1.0))
    credit = batch.require_credit()
    # Row 1: "d", "\n\n" are step 0 (wrong), "e", "f", "g" step 1, the end token no step; right.
    assert credit.token_rewards[1].tolist() == [-0.5, -0.5, 0.0, 0.0, 0.0, 2.0]
    # Values are zero: the reward to go. The first token of the wrong step bears all of it, what came after none.
    assert credit.advantages[1].tolist() == [1.0, 1.5, 2.0, 2.0, 2.0, 2.0]
    with pytest.raises(BatchError, match=r"critique\.judge"):
        fit(folder, make_batch(judged=False), credit=CreditConfig())


def test_the_rows_keep_the_facts_that_credit_is_made_of():
    rows = assign_credit(make_batch(), CreditConfig())
    assert rows.outcome.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    assert rows.step_error[1].tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
