"""PPOModule: PPO with a value function and generalized advantages, the credit assignment that CAPO argues against."""

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.core.optimizer import LightningOptimizer

from capo_lit.batch.credit import CreditConfig, token_table
from capo_lit.batch.facts import TokenTable
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError, check_settings
from capo_lit.core.loss import Sums
from capo_lit.evaluation.reduction import Mean, Parts
from capo_lit.training.capo import CapoModule
from capo_lit.training.settings import LossConfig, OptimConfig, UpdateConfig
from capo_lit.training.sharding import is_sharded
from examples.ppo.gae import explained_variance, gae, timed_rewards, value_loss, whiten
from examples.ppo.value import ValueModel


@dataclass
class PPOConfig:
    """The value function of PPO, and the advantages that it gives.

    Args:
        gamma: discount per token, in [0, 1].
        lam: GAE's lambda, in [0, 1]; 1 gives returns minus values, less leans on the values to cut the variance.
        value_lr: peak learning rate of the value model; warm-up, schedule and gradient clipping are as in optim.
        value_clip: how far the updates of one batch may move a value; null sets no limit.
        whiten: shift and scale advantages to mean 0 and deviation 1 over the batch.
    """

    gamma: float = 1.0
    lam: float = 1.0
    value_lr: float = 1e-5
    value_clip: float | None = 0.2
    whiten: bool = True

    def __post_init__(self) -> None:
        checks = (
            (0 <= self.gamma <= 1, f"gamma {self.gamma}", "a number in [0, 1]", "--model.ppo.gamma"),
            (0 <= self.lam <= 1, f"lam {self.lam}", "a number in [0, 1]", "--model.ppo.lam"),
            (self.value_lr > 0, f"value_lr {self.value_lr}", "a number > 0", "--model.ppo.value_lr"),
            (
                self.value_clip is None or self.value_clip > 0,
                f"value_clip {self.value_clip}",
                "a number > 0, or null",
                "--model.ppo.value_clip",
            ),
        )
        check_settings(checks, "PPOConfig")


@dataclass(frozen=True, kw_only=True)
class ValueTable(TokenTable):
    """The table of a batch with its values.

    Attributes:
        values: (n, t) float32, before the update; anything outside the mask.
        returns: (n, t) float32, what the values should have been; 0 outside the mask.
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
        credit: w_whole and w_process; GAE takes the place of estimator and std_floor.
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
        ppo: PPOConfig = PPOConfig(),  # noqa: B008  (never changed after parsing)
        seed: int = 0,
    ) -> None:
        super().__init__(policy, optim, credit, loss, update, seed)
        self.ppo = ppo
        self.value: Any = ValueModel(self.policy) if self.policy else None

    def configure_model(self) -> None:
        """Refuse a policy in shards: its copy, the value model, would not lie in shards with it.

        Raises:
            ConfigError: if the strategy shards.
        """
        super().configure_model()
        if is_sharded(self.policy):
            raise ConfigError("a sharded policy", "a whole one on every process", "PPOModule", "--trainer.strategy ddp")

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

    def assign_credit(self, batch: StepBatch) -> ValueTable:
        """Rewards in time, values before the update, and the advantages that GAE makes of them."""
        w_process = self.credit.w_process
        table = token_table(batch, w_process)
        rewards = timed_rewards(
            table.outcome, table.step_error, table.step_of_token, table.mask, self.credit.w_whole, w_process
        )
        values = self._old_values(table)
        advantages, returns = gae(rewards, values, table.mask, self.ppo.gamma, self.ppo.lam)
        if self.ppo.whiten:
            advantages = whiten(advantages, table.mask, self._total)
        filled = vars(table) | {"token_rewards": rewards, "advantages": advantages}
        return ValueTable(**filled, values=values, returns=returns)

    def credit_metrics(self, table: TokenTable) -> Parts:
        """The reward/ and value/ families."""
        table = _with_values(table)
        tokens = float(table.mask.sum())
        return {
            **super().credit_metrics(table),
            "value/mean": Mean(float(table.values[table.mask].sum(dtype=torch.float64)), tokens),
            "value/return_mean": Mean(float(table.returns[table.mask].sum(dtype=torch.float64)), tokens),
            "value/explained_variance": Mean(*explained_variance(table.returns, table.values, table.mask, self._total)),
        }

    @torch.no_grad()
    def _old_values(self, table: TokenTable) -> torch.Tensor:
        """(n, t) float32 on the CPU."""
        values = torch.zeros(table.mask.shape, dtype=torch.float32)
        for rows in self.microbatches(table.prompts, table.responses):
            part = table.take(rows, self.device)
            new = self.value(part.prompts, part.responses)
            values[rows, : new.shape[1]] = new.cpu()
        return values

    def _total(self, value: torch.Tensor) -> torch.Tensor:
        """Sum over data-parallel ranks."""
        return self.trainer.strategy.reduce(value.to(self.device), reduce_op="sum").to(value.device)

    def _losses(
        self, table: TokenTable, rows: list[int], normalizer: float, on_policy: bool
    ) -> tuple[dict[str, torch.Tensor], Sums]:
        losses, sums = super()._losses(table, rows, normalizer, on_policy)
        part = _with_values(table).take(rows, self.device)
        losses["value/loss"] = value_loss(
            self.value(part.prompts, part.responses),
            part.values,
            part.returns,
            part.mask,
            clip=self.ppo.value_clip,
            aggregation=self.loss.aggregation,
            normalizer=normalizer,
        )
        return losses, sums


def _with_values(table: TokenTable) -> ValueTable:
    """The table that `assign_credit` made, as what it is."""
    if not isinstance(table, ValueTable):
        raise TypeError(f"got a {type(table).__name__}; expected the ValueTable of PPOModule.assign_credit")
    return table
