"""A whole optimizer step of CapoModule and of TRL's `train()`, from the same weights and the same rollouts."""

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.sampling import Sampling
from capo_lit.core.loss import loss_means, policy_loss
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.settings import LossConfig
from tests.parity import trl_world
from tests.parity.agreement import TOLERANCE, assert_agree, assert_vectors_agree
from tests.parity.fixed import cycle
from tests.support import tiny_llama
from tests.training.test_module import fit, make_batch

pytestmark = pytest.mark.parity

PER_PROMPT, ROWS, MAX_TOKENS = 3, 6, 8
AGGREGATIONS = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "dr_grpo", "dapo": "token"}


def trl_step(folder, batch, token_advantages=None, **settings):
    """Gradients by name of TRL's first optimizer step, and its loss; with (n, t) advantages through a subclass."""
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    gradients = {}

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **_):
            gradients.update({name: p.grad.clone() for name, p in model.named_parameters()})

    class TokenAdvantages(GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            return super()._generate_and_score_completions(inputs) | {"advantages": token_advantages}

    rows = [(r.prompt.ids, r.completion.ids, r.completion.logprobs) for r in batch.require_rollouts()]
    trainer = trl_world.make_trainer(
        folder,
        rows,
        [2 * r.outcome for r in batch.require_rollouts()],
        GRPOTrainer if token_advantages is None else TokenAdvantages,
        num_generations=PER_PROMPT,
        max_completion_length=MAX_TOKENS,
        max_grad_norm=0.0,
        max_steps=1,
        logging_steps=1,
        **settings,
    )
    trainer.add_callback(Watch())
    trainer.train()
    return gradients, trainer.state.log_history[0]["loss"]


def assert_same_gradient(ours, theirs):
    """Gradients by name."""
    assert_vectors_agree(
        torch.cat([gradient.flatten() for gradient in ours.values()]),
        torch.cat([theirs[name].flatten() for name in ours]),
    )


@pytest.mark.parametrize("level", ["sequence", "token_pooled"])
@pytest.mark.parametrize("reduction", AGGREGATIONS)
def test_the_gradient_of_one_step(trl, folder, reduction, level):
    batch = make_batch()
    credit = CreditConfig(estimator=level, w_process=0.0 if level == "sequence" else 1.0)
    loss = LossConfig(aggregation=AGGREGATIONS[reduction], importance_cap=None)
    module = fit(str(folder), batch, credit=credit, loss=loss)
    # bnpo alone depends on the micro-batches; the others are split in two.
    parts = 1 if reduction == "bnpo" else 2
    gradients, trl_loss = trl_step(
        folder,
        batch,
        None if level == "sequence" else batch.require_credit().advantages,
        loss_type=reduction,
        per_device_train_batch_size=ROWS // parts,
        gradient_accumulation_steps=parts,
    )
    assert_same_gradient(module.gradient, gradients)
    # The advantages of a group sum to about 0, and so does the loss: compared with their size, which is 1.
    assert module.logged["policy/loss"] == pytest.approx(trl_loss, abs=TOLERANCE)


def test_parameters_off_policy_and_far_from_the_reference(trl, folder):
    # Rows of prompts of different lengths: TRL pads them on the left under a mask, this package on the right.
    batch = make_batch()
    rows = [(r.prompt.ids, r.completion.ids, r.completion.logprobs) for r in batch.require_rollouts()]
    trainer = trl_world.make_trainer(
        folder, rows, [2 * r.outcome for r in batch.require_rollouts()], num_generations=PER_PROMPT, beta=0.1
    )
    tiny_llama.perturb(trainer.ref_model, seed=3)
    inputs = trl_world.score(trainer, ROWS)
    reference, mask = inputs["ref_per_token_logps"], inputs["completion_mask"].bool()
    inputs["old_per_token_logps"] = old = cycle((0.3, 1.5))[:ROWS, : mask.shape[1]] * reference
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    logprobs, _ = response_logprobs(model, [row[0] for row in rows], [row[1] for row in rows])
    adv = inputs["advantages"][:, None].expand(mask.shape)
    settings = {"kl_coef": 0.1, "ref_logprobs": reference, "dual_clip": 3.0}
    loss, sums = policy_loss(logprobs, old, adv, mask, **settings)
    means = loss_means(sums)
    assert min(means["clip_low_frac"], means["clip_high_frac"], means["kl_ref"]) > 0.1
    loss.backward()
    with trl_world.configured(trainer, delta=3.0, use_bias_correction_kl=False):
        expected = trainer._compute_loss(trainer.model, inputs)
    expected.backward()
    assert_agree(loss, expected)
    assert_same_gradient(*({name: p.grad for name, p in m.named_parameters()} for m in (model, trainer.model)))


def test_the_sampling_temperature(trl, folder):
    batch = make_batch(sampling=Sampling(temperature=0.7, max_tokens=MAX_TOKENS))
    module = fit(str(folder), batch, credit=CreditConfig(estimator="sequence", w_process=0.0))
    gradients, _ = trl_step(folder, batch, loss_type="dapo", temperature=0.7, per_device_train_batch_size=ROWS)
    assert_same_gradient(module.gradient, gradients)
