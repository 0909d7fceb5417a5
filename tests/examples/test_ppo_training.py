"""PPOModule over several updates: values learn, a resumed run is the same, and only the policy leaves the module."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from capo_lit.core.errors import ConfigError, UpdateError
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.settings import LossConfig, OptimConfig, UpdateConfig
from examples.ppo.gae import gae
from examples.ppo.module import PPOConfig, PPOModule
from tests.support.ppo_world import PLAIN, Watched, fit, run
from tests.training.test_module import make_batch, train


def test_several_updates_share_the_values_and_logprobs_from_before_the_first(folder):
    batch = make_batch(judged=False)
    module = fit(folder, batch, update=UpdateConfig(epochs=2, minibatches=2), ppo=PPOConfig(value_lr=1e-2))
    assert module.version == 4
    assert not module.rows.values.any()
    assert module.logged["policy/ratio_mean"] != pytest.approx(1.0, abs=1e-4)
    # Lightning counts one optimizer step an update: max_steps means what it says.
    assert module.trainer.global_step == 4


@pytest.mark.slow
def test_values_come_to_explain_the_returns(folder):
    # The policy stands still; the value model sees the same rollouts again and again.
    module = Watched(folder, OptimConfig(lr=0.0), PLAIN, ppo=PPOConfig(value_lr=3e-3, value_clip=None, whiten=False))
    run(module, epochs=1)
    first = module.logged["value/loss"]
    run(module, epochs=25)
    assert module.logged["value/loss"] < 0.2 * first
    assert module.logged["value/explained_variance"] > 0.5
    # What is known is no news: |A| falls with it, and A is what GAE makes of rewards and values.
    rows = module.rows
    expected, returns = gae(rows.token_rewards, rows.values, rows.mask, 1.0, 1.0)
    assert torch.equal(rows.advantages, expected)
    assert expected.abs().mean() < 0.5 * returns.mean()


def test_a_resumed_run_is_bit_identical(folder, tmp_path):
    def fresh():
        update = UpdateConfig(epochs=2, minibatches=2)
        return Watched(folder, OptimConfig(lr=1e-2, warmup_steps=9, schedule="cosine"), PLAIN, update=update)

    whole, part, resumed = fresh(), fresh(), fresh()
    run(whole, epochs=3)
    run(part, epochs=1, save=tmp_path / "half.ckpt")
    run(resumed, epochs=3, ckpt_path=tmp_path / "half.ckpt")
    assert resumed.version == whole.version == 12
    for (name, mine), (_, other) in zip(resumed.state_dict().items(), whole.state_dict().items(), strict=True):
        assert torch.equal(mine, other), name
    states = [list(module.trainer.optimizers[0].state.values()) for module in (resumed, whole)]
    assert len(states[0]) == sum(1 for _ in whole.parameters())
    for mine, other in zip(*states, strict=True):
        assert all(torch.equal(mine[key], other[key]) for key in other)
    # The value model was in the checkpoint, and moved.
    assert whole.value.head.weight.abs().sum() > 0


def test_engine_export_and_reference_see_the_policy_alone(folder, tmp_path):
    module = fit(folder, make_batch(judged=False), loss=LossConfig(kl_coef=0.1, importance_cap=None))
    assert {name for name, _ in module.engine_weights()} == {name for name, _ in module.policy.named_parameters()}
    module.export(tmp_path)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path)
    for (name, mine), (_, other) in zip(module.policy.named_parameters(), exported.named_parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert not any("value" in name for name in exported.state_dict())
    prompt, response = [(1, 2)], [(3, 4)]
    torch.testing.assert_close(
        response_logprobs(exported, prompt, response)[0], response_logprobs(module.policy, prompt, response)[0]
    )
    # Training the copy left the policy's own backbone alone, and the other way round.
    shared = {p.data_ptr() for p in module.policy.parameters()} & {p.data_ptr() for p in module.value.parameters()}
    assert not shared


def test_a_value_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights(folder):
    class Broken(PPOModule):
        def on_after_backward(self):
            self.value.head.bias.grad.fill_(float("nan"))

    module = Broken(folder, OptimConfig(lr=1e-2), PLAIN)
    before = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(UpdateError, match="nan"):
        train(module, make_batch(judged=False))
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())


def test_the_two_models_have_learning_rates_of_their_own(folder):
    class Rates(Watched):
        def apply_gradient(self, optimizer):
            self.rates = [(group["lr"], len(group["params"])) for group in optimizer.param_groups]
            return super().apply_gradient(optimizer)

    module = Rates(folder, OptimConfig(lr=1e-3, warmup_steps=4), PLAIN, ppo=PPOConfig(value_lr=1e-2))
    train(module, make_batch(judged=False))
    policy, value = (sum(1 for _ in model.parameters()) for model in (module.policy, module.value))
    rates = [rate for rate, _ in module.rates]
    assert rates[0] == rates[1] == module.last_lr
    assert rates[2] == rates[3] == pytest.approx(10 * rates[0])
    assert [sum(n for _, n in module.rates[i : i + 2]) for i in (0, 2)] == [policy, value]


@pytest.mark.parametrize("name", ["gamma", "lam", "value_lr", "value_clip"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=rf"model\.ppo\.{name}"):
        PPOConfig(**{name: -0.5})


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_keeps_rewards_and_values_in_fp32(folder, precision):
    batch = make_batch(judged=False)
    module = Watched(folder, OptimConfig(lr=1e-2), PLAIN)
    train(module, batch, precision)
    assert batch.require_credit().advantages.dtype == module.rows.values.dtype == torch.float32
    assert module.version == 1
