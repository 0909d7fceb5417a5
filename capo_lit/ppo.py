"""PPOModule: PPO with a value function and generalized advantages, the credit assignment that CAPO argues against."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer

from capo_lit.batch import StepBatch
from capo_lit.core.gae import explained_variance, gae, timed_rewards, whiten
from capo_lit.core.loss import LossStats
from capo_lit.core.value_loss import value_loss
from capo_lit.credit_rows import CreditRows, FactRows, pad_facts
from capo_lit.module import CapoModule, Passes
from capo_lit.scoring import plan_microbatches
from capo_lit.settings import CreditConfig, LossConfig, OptimConfig, PPOConfig, UpdateConfig
from capo_lit.value import ValueModel


@dataclass(frozen=True)
class ValueRows(CreditRows):
    """The credit with what it came from.

    Attributes:
        values: (n, t) float32, before the update.
        returns: (n, t) float32; 0 outside the mask.
    """

    values: torch.Tensor
    returns: torch.Tensor


class PPOModule(CapoModule):
    """A policy trained by PPO: a value model says what a token was worth, and no other rollout of its prompt is asked.

    R[i,t] = [t is the last token] r * W_whole - e * W_process / |tokens of the step|; advantages by GAE over R and the
    values; the policy's loss is CapoModule's, the values' a clipped squared error (arXiv 1506.02438, 1707.06347).
    w_process 0 is plain PPO and needs no judge; above 0, wrong steps are dense rewards.

    Args:
        policy: directory or hub id of a Hugging Face causal LM; the value model starts from its backbone.
        optim: optimizer and schedule.
        credit: w_whole, w_process and max_abs_advantage; GAE takes the place of estimator and std_floor.
        loss: the clipped loss of the policy; its aggregation is also that of the values' loss.
        update: micro-batches, minibatches and memory.
        ppo: values and advantages.
        seed: of the run; every random number derives from it and the step.
    """

    def __init__(
        self,
        policy: str,
        optim: OptimConfig = OptimConfig(),
        credit: CreditConfig = CreditConfig(),
        loss: LossConfig = LossConfig(),
        update: UpdateConfig = UpdateConfig(),
        ppo: PPOConfig = PPOConfig(),
        seed: int = 0,
    ) -> None:
        super().__init__(policy, optim, credit, loss, update, seed)
        self.ppo = ppo
        self.value = ValueModel(self.policy)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Policy and value model in one optimizer: two would count every update twice in Lightning's steps."""
        return [*super().parameter_groups(), *self.decay_groups(self.value, self.ppo.value_lr)]

    def apply_gradient(self, optimizer: LightningOptimizer) -> float:
        """Clip the two gradients, each by itself, and step.

        Returns:
            The norm of the policy's gradient before clipping.

        Raises:
            UpdateError: if a norm is not finite; the weights are left as they were.
        """
        self.clip_gradient(self.value)
        return super().apply_gradient(optimizer)

    def _assign_credit(self, batch: StepBatch) -> ValueRows:
        w_process = self.credit.w_process * float(self.process_scale)
        facts = pad_facts(batch, w_process)
        rewards = timed_rewards(
            facts.outcome, facts.step_error, facts.step_of_token, facts.mask, self.credit.w_whole, w_process
        )
        values = self._values(facts)
        advantages, returns = gae(rewards, values, facts.mask, self.ppo.gamma, self.ppo.lam)
        if self.ppo.whiten:
            advantages = whiten(advantages, facts.mask, self._total)
        if self.credit.max_abs_advantage is not None:
            advantages = advantages.clamp(-self.credit.max_abs_advantage, self.credit.max_abs_advantage)
        return ValueRows(**vars(facts), token_rewards=rewards, advantages=advantages, values=values, returns=returns)

    @torch.no_grad()
    def _values(self, facts: FactRows) -> torch.Tensor:
        """(n, t) float32 on the CPU."""
        values = torch.zeros(facts.mask.shape, dtype=torch.float32)
        for micro in plan_microbatches(facts.lengths, self._budget):
            part = self._value(facts, micro)
            values[micro, : part.shape[1]] = part.cpu()
        return values

    def _value(self, facts: FactRows, micro: list[int]) -> torch.Tensor:
        picked = [facts.rollouts[row] for row in micro]
        return self.value([rollout.prompt.ids for rollout in picked], [rollout.completion.ids for rollout in picked])

    def _total(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over data-parallel ranks."""
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").to(value.device)

    def _micro_losses(
        self, rows: ValueRows, micro: list[int], old: torch.Tensor | None, normalizer: float, passes: Passes
    ) -> tuple[dict[str, torch.Tensor], LossStats]:
        losses, stats = super()._micro_losses(rows, micro, old, normalizer, passes)
        values = self._value(rows, micro)
        width, device = values.shape[1], values.device
        losses["value/loss"] = value_loss(
            values,
            rows.values[micro, :width].to(device),
            rows.returns[micro, :width].to(device),
            rows.mask[micro, :width].to(device),
            clip=self.ppo.value_clip,
            aggregation=self.loss.aggregation,
            normalizer=normalizer,
        )
        return losses, stats

    def _credit_metrics(self, rows: ValueRows) -> dict[str, float]:
        tokens = rows.mask.sum().clamp(min=1)
        return {
            **super()._credit_metrics(rows),
            "value/mean": float(torch.where(rows.mask, rows.values, 0.0).sum() / tokens),
            "value/return_mean": float(rows.returns.sum() / tokens),
            "value/explained_variance": explained_variance(rows.returns, rows.values, rows.mask),
        }
