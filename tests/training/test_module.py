"""CapoModule on a tiny random model: where the gradient goes, and what it must not depend on."""

from dataclasses import replace

import pytest
import torch
from lightning.pytorch import Trainer

from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.facts import CritiquedRollout, Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError, UpdateError
from capo_lit.core.votes import Verdict
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig, UpdateConfig
from tests.support.builders import make_completion, tiny_llama
from tests.support.loaders import Loader

# Two prompts, three rollouts each; (outcome, step errors, pieces). Steps are paragraphs; the last piece is the EOS.
GROUPS = [
    [
        (1.0, (0.0, 0.0), ("a", "b\n\n", "c", "")),
        (1.0, (1.0, 0.0), ("d", "\n\n", "e", "f", "g", "")),
        (0.0, (1.0,), ("h", "i", "")),
    ],
    [
        (0.0, (0.0, 1.0), ("j\n\n", "k", "")),
        (0.0, (0.0,), ("l", "m", "n", "o", "")),
        (1.0, (0.0,), ("p", "")),
    ],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path)
    return str(path)


def make_batch(groups=GROUPS, judged=True, sampling=None):
    rollouts, verdicts, token = [], [], 3
    for group, members in enumerate(groups):
        prompt = Prompt(f"p{group}", "?", (1, 2 + group), "0")
        for sample, (outcome, errors, pieces) in enumerate(members):
            ids = tuple(3 + (token + i) % 29 for i in range(len(pieces)))
            token += 5
            done = make_completion(pieces=pieces, ids=ids, logprobs=(-3.0,) * len(pieces))
            rollouts.append(Rollout(len(rollouts), group, sample, prompt, done, outcome))
            verdicts.append(CritiquedRollout(rollouts[-1], (), Verdict(errors, 1, 0, 1.0)))
    batch = StepBatch([r.prompt for r in rollouts if r.sample == 0], step=0)
    batch.set_rollouts(rollouts, sampling or Sampling(max_tokens=8))
    if judged:
        batch.set_verdicts(verdicts)
    return batch


class Watched(CapoModule):
    """Keeps the gradient of its first update, and counts forward passes that can have a gradient."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradient, self.forwards, self.logged = None, 0, {}
        self.policy.base_model.register_forward_hook(self._count)

    def _count(self, *_):
        self.forwards += 1

    def apply_gradient(self, optimizer):
        if self.gradient is None:
            self.gradient = {name: p.grad.clone() for name, p in self.policy.named_parameters()}
        return super().apply_gradient(optimizer)

    def log_metrics(self, values, batch_size):
        self.logged.update(values)
        super().log_metrics(values, batch_size)


def train(module, batch, precision="32-true"):
    trainer = Trainer(
        precision=precision,
        max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, Loader([batch]))
    return module


def fit(folder, batch, lr=1e-2, precision="32-true", **settings):
    settings.setdefault("loss", LossConfig(importance_cap=None))
    module = Watched(folder, OptimConfig(lr=lr, grad_clip=0.0), **settings)
    module.forwards = 0
    return train(module, batch, precision)


def assert_same_gradient(one, two):
    for name, gradient in one.gradient.items():
        torch.testing.assert_close(gradient, two.gradient[name], atol=1e-6, rtol=1e-5, msg=name)


def test_the_tokens_of_a_wrong_step_lose_probability_and_the_others_of_their_rollout_gain(folder):
    # An all-right group: GRPO has no signal here, and CAPO has it exactly on the wrong step of the second rollout.
    groups = [[(1.0, (0.0, 0.0), GROUPS[0][0][2]), (1.0, (1.0, 0.0), GROUPS[0][1][2])]]
    batch = make_batch(groups)
    module = fit(folder, batch, lr=1e-4)
    credit = batch.require_credit()
    # Rollout 1: "d", "\n\n" are step 0 (wrong), "e", "f", "g" step 1, the EOS no step.
    assert credit.step_of_token[1].tolist() == [0, 0, 1, 1, 1, -1]
    assert credit.token_rewards[1].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert (credit.advantages[1] < 0).tolist() == [True, True, False, False, False, False]
    rollout = batch.require_rollouts()[1]
    after = torch.tensor(module.score([rollout.prompt], [rollout.completion.ids])[0])
    change = after - credit.logprobs[1]
    assert change[:2].max() < 0 < change[2:].min()


def test_one_update_costs_one_forward_and_one_backward(folder):
    module = fit(folder, make_batch())
    assert module.forwards == 1
    assert module.version == 1
    assert module.logged["policy/ratio_mean"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
def test_the_gradient_does_not_depend_on_microbatches(folder, aggregation):
    loss = LossConfig(aggregation=aggregation, importance_cap=2.0)
    whole = fit(folder, make_batch(), loss=loss)
    split = fit(folder, make_batch(), loss=loss, update=UpdateConfig(tokens_per_microbatch=1))
    assert (whole.forwards, split.forwards) == (1, 6)
    assert_same_gradient(whole, split)


def test_a_rollout_of_unknown_outcome_leaves_statistics_and_loss(folder):
    unknown = [[*GROUPS[0][:2], (None, (1.0,), GROUPS[0][2][2])], GROUPS[1]]
    without = [GROUPS[0][:2], GROUPS[1]]
    with_row, reference = make_batch(unknown), make_batch(without)
    one = fit(folder, with_row)
    # The token ids of make_batch depend on the rows before, so the reference is rebuilt from the same rollouts.
    kept = [item for item in with_row.require_verdicts() if item.rollout.outcome is not None]
    reference = StepBatch(with_row.prompts, step=0)
    rows = [Rollout(i, c.rollout.group, c.rollout.sample, c.rollout.prompt, c.rollout.completion, c.rollout.outcome)
            for i, c in enumerate(kept)]  # fmt: skip
    reference.set_rollouts(rows, with_row.sampling)
    reference.set_verdicts(CritiquedRollout(r, (), c.verdict) for r, c in zip(rows, kept, strict=True))
    assert_same_gradient(one, fit(folder, reference))
    assert not with_row.require_credit().mask[2].any()
    assert not with_row.require_credit().advantages[2].any()


def test_several_updates_per_batch_clip_against_the_policy_before_the_first(folder):
    module = fit(folder, make_batch(), update=UpdateConfig(epochs=2, minibatches=2))
    assert module.version == 4
    # One forward for the old logprobs, one for each update.
    assert module.forwards == 5
    assert module.logged["policy/ratio_mean"] != pytest.approx(1.0, abs=1e-4)
    assert module.logged["policy/clip_low_frac"] + module.logged["policy/clip_high_frac"] > 0


def test_a_kl_to_the_initial_policy_starts_at_zero_and_grows(folder):
    loss = LossConfig(kl_coef=0.5, importance_cap=None)
    one = fit(folder, make_batch(), loss=loss)
    assert one.logged["policy/kl_ref"] == pytest.approx(0.0, abs=1e-9)
    assert_same_gradient(one, fit(folder, make_batch()))  # k3 has no gradient where the policies agree
    two = fit(folder, make_batch(), loss=loss, update=UpdateConfig(epochs=2))
    assert two.logged["policy/kl_ref"] > 1e-6
    assert not any("reference" in name for name in two.state_dict())


def test_grpo_needs_no_verdicts_and_capo_says_what_is_missing(folder):
    credit = CreditConfig(w_process=0.0, estimator="sequence")
    assert fit(folder, make_batch(judged=False), credit=credit).version == 1
    with pytest.raises(BatchError, match=r"critique\.judge"):
        fit(folder, make_batch(judged=False))


def test_the_importance_weight_corrects_the_engines_distance(folder):
    plain = fit(folder, make_batch())
    capped = fit(folder, make_batch(), loss=LossConfig(importance_cap=2.0))
    assert capped.logged["policy/engine_logp_gap"] > 0.01  # the engine said -3 for every token
    assert any(not torch.allclose(plain.gradient[k], capped.gradient[k], atol=1e-6) for k in plain.gradient)


def test_an_importance_correction_without_the_engines_logprobs_is_refused(folder):
    given = make_batch(judged=False)

    def mute(*rows):
        batch = StepBatch(given.prompts, step=7)
        batch.set_rollouts(
            replace(r, completion=replace(r.completion, logprobs=None)) if r.row in rows else r
            for r in given.require_rollouts()
        )
        return batch

    credit = CreditConfig(w_process=0.0)
    with pytest.raises(BatchError, match=r"step 7: got 1 of 6 rollouts without.*importance_cap 2.*importance_cap null"):
        fit(folder, mute(3), loss=LossConfig(importance_cap=2.0), credit=credit)
    chosen = fit(folder, mute(*range(6)), loss=LossConfig(importance_cap=None), credit=credit)
    assert chosen.version == 1
    assert "policy/importance_mean" not in chosen.logged


def test_a_part_of_the_table_is_as_wide_as_its_longest_row_and_is_written_back_in_place():
    table = assign_credit(make_batch(), CreditConfig())
    part = table.take([5, 0], torch.device("cpu"))
    assert [len(row) for row in part.responses] == [2, 4]
    assert part.advantages.tolist() == table.advantages[[5, 0], :4].tolist()
    assert part.outcome.tolist() == [1.0, 1.0]
    assert (part.group.tolist(), part.lengths) == ([1, 0], [4, 6])
    table.put([5, 0], logprobs=torch.tensor([[-1.0, -2.0, 0.0, 0.0], [-3.0, -4.0, -5.0, -6.0]]))
    assert table.logprobs[5, :4].tolist() == [-1.0, -2.0, 0.0, 0.0]
    assert table.logprobs[0].tolist() == [-3.0, -4.0, -5.0, -6.0, 0.0, 0.0]
    assert not table.logprobs[1:5].any()


def test_the_sampling_temperature_reaches_the_logprobs(folder):
    hot, cold = make_batch(sampling=Sampling(temperature=2.0)), make_batch(sampling=Sampling(temperature=1.0))
    fit(folder, hot)
    fit(folder, cold)
    assert not torch.allclose(hot.require_credit().logprobs, cold.require_credit().logprobs, atol=1e-3)


def test_a_gradient_that_is_not_finite_stops_the_run_and_leaves_the_weights(folder):
    class Broken(CapoModule):
        def on_after_backward(self):
            self.policy.lm_head.weight.grad.fill_(float("nan"))

    module = Broken(folder, OptimConfig(lr=1e-2))
    before = module.policy.lm_head.weight.detach().clone()
    with pytest.raises(UpdateError, match="nan"):
        train(module, make_batch())
    assert torch.equal(before, module.policy.lm_head.weight)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_bf16_takes_the_same_direction_as_fp32(folder, precision):
    exact = fit(folder, make_batch())
    half = fit(folder, make_batch(), precision=precision)
    assert (exact.compute_dtype, half.compute_dtype) == (torch.float32, torch.bfloat16)
    flat = [torch.cat([g.float().flatten() for g in module.gradient.values()]) for module in (exact, half)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.97
    batch = make_batch()
    fit(folder, batch, precision=precision)
    credit = batch.require_credit()
    assert credit.advantages.dtype == credit.token_rewards.dtype == torch.float32


def test_gradient_checkpointing_changes_memory_and_not_the_gradient(folder):
    plain = fit(folder, make_batch())
    saving = fit(folder, make_batch(), update=UpdateConfig(gradient_checkpointing=True))
    assert saving.policy.is_gradient_checkpointing
    assert_same_gradient(plain, saving)


def test_dropout_of_the_checkpoint_is_switched_off(tmp_path):
    tiny_llama(tmp_path, attention_dropout=0.5)
    one, two = (fit(str(tmp_path), make_batch()) for _ in range(2))
    assert_same_gradient(one, two)
    assert one.policy.config.attention_dropout == 0.0
