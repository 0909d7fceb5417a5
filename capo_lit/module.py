"""CapoModule: token rewards and advantages from the verdicts, and the PPO-clip update. Facts in, gradient out."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import torch

from capo_lit.batch import StepBatch, TokenCredit
from capo_lit.core.loss import LossStats, loss_normalizer, policy_loss
from capo_lit.credit_rows import CreditRows, assign_credit, credit_metrics
from capo_lit.policy import PolicyModule, load_policy
from capo_lit.scoring import padding_share, plan_microbatches, response_logprobs
from capo_lit.seeding import derive_seed
from capo_lit.settings import CreditConfig, LossConfig, OptimConfig, UpdateConfig


@dataclass
class Passes:
    """What the passes over one batch gather: sums for the metrics, and the logprobs before the first update."""

    logprobs: torch.Tensor
    entropy_sum: float = 0.0
    gap_sum: float = 0.0
    gap_max: float = 0.0
    tokens: int = 0


class CapoModule(PolicyModule):
    """A policy trained by CAPO; with w_process 0 and estimator `sequence` it is GRPO.

    Token rewards R = r * W_whole - e * W_process; advantages over the group; PPO-clip (arXiv 2508.02298).

    Args:
        policy: directory or hub id of a Hugging Face causal LM.
        optim: optimizer and schedule.
        credit: token rewards and advantages.
        loss: the clipped loss.
        update: micro-batches, minibatches and memory.
        seed: of the run; every random number derives from it and the step.
    """

    def __init__(
        self,
        policy: str,
        optim: OptimConfig = OptimConfig(),
        credit: CreditConfig = CreditConfig(),
        loss: LossConfig = LossConfig(),
        update: UpdateConfig = UpdateConfig(),
        seed: int = 0,
    ) -> None:
        super().__init__(policy, optim, update, seed)
        self.credit, self.loss = credit, loss
        # Factor on w_process, in [0, 1], that a judge gate sets at run time; in the state dict, so that it is resumed.
        self.register_buffer("process_scale", torch.ones((), dtype=torch.float32))
        self.process_scale: torch.Tensor
        # Not a submodule: the reference never changes, so it stays out of optimizer and checkpoints.
        self._reference: Any = None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the full process weight from a checkpoint of before there was a judge gate."""
        checkpoint.get("state_dict", {}).setdefault("process_scale", torch.ones((), dtype=torch.float32))

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """Turn the facts gathered in the batch into optimizer steps, and log what happened."""
        batch.require_rollouts()  # waits for them, so that the time below is the update's
        started = time.perf_counter()
        rows = self._assign_credit(batch)
        passes = Passes(torch.zeros(rows.mask.shape, dtype=torch.float32))
        stats, norms, losses = self._optimize(rows, batch, passes)
        seconds = time.perf_counter() - started
        batch.set_credit(
            TokenCredit(rows.token_rewards, rows.advantages, rows.mask, rows.step_of_token, passes.logprobs)
        )
        values = {
            **self._credit_metrics(rows),
            **_loss_metrics(stats, self.loss),
            **{name: total / len(norms) for name, total in losses.items()},
            "policy/grad_norm": sum(norms) / len(norms),
            "policy/lr": self.last_lr,
            "policy/entropy": passes.entropy_sum / max(passes.tokens, 1),
            "policy/version": float(self.version),
            "policy/pad_frac": padding_share(rows.lengths, plan_microbatches(rows.lengths, self._budget)),
            "policy/train_tokens_per_s": sum(rows.lengths) / seconds,
            "time/update_s": seconds,
        }
        if rows.engine_logprobs is not None:
            values["policy/engine_logp_gap"] = passes.gap_sum / max(passes.tokens, 1)
            values["policy/engine_logp_gap_max"] = passes.gap_max
        self.log_metrics(values, len(batch))

    @property
    def _budget(self) -> int:
        return self.update.tokens_per_microbatch

    def _assign_credit(self, batch: StepBatch) -> CreditRows:
        """Facts to token advantages."""
        return assign_credit(batch, self.credit, float(self.process_scale))

    def _credit_metrics(self, rows: CreditRows) -> dict[str, float]:
        return credit_metrics(rows)

    def _optimize(
        self, rows: CreditRows, batch: StepBatch, passes: Passes
    ) -> tuple[LossStats, list[float], Counter[str]]:
        """All optimizer steps of one batch of rollouts; returns summed statistics, gradient norms, summed losses."""
        updates = list(self._minibatches(len(rows.lengths), batch.step))
        old = None
        if len(updates) > 1:  # with one update, its own forward gives the old logprobs
            with torch.no_grad():
                for micro in plan_microbatches(rows.lengths, self._budget):
                    self._gather(passes, rows, micro, *self._forward(rows, micro))
            old = passes.logprobs
        stats: list[LossStats] = []
        norms: list[float] = []
        totals: Counter[str] = Counter()
        optimizer = self.optimizers()
        for picked in updates:
            normalizer = self._normalizer(rows.mask[picked], rows.max_tokens)
            plan = plan_microbatches([rows.lengths[row] for row in picked], self._budget)
            for index, chosen in enumerate(plan):
                micro = [picked[row] for row in chosen]
                # Data-parallel ranks exchange gradients once per update, with its last micro-batch.
                with optimizer.toggle_model(sync_grad=index == len(plan) - 1):  # type: ignore[union-attr]
                    losses, part_stats = self._micro_losses(rows, micro, old, normalizer, passes)
                    # One backward for all, or data-parallel ranks would exchange gradients more than once.
                    self.manual_backward(reduce(add, losses.values()))
                stats.append(part_stats)
                totals.update({name: float(part.detach()) for name, part in losses.items()})
            norms.append(self.apply_gradient(optimizer))  # type: ignore[arg-type]
        return reduce(add, stats), norms, totals

    def _micro_losses(
        self, rows: CreditRows, micro: list[int], old: torch.Tensor | None, normalizer: float, passes: Passes
    ) -> tuple[dict[str, torch.Tensor], LossStats]:
        """The terms of one micro-batch's loss, by the metric that logs them."""
        logprobs, entropy = self._forward(rows, micro)
        width, device = logprobs.shape[1], logprobs.device
        if old is None:
            self._gather(passes, rows, micro, logprobs.detach(), entropy)
            old_part = logprobs.detach()
        else:
            old_part = old[micro, :width].to(device)
        engine = rows.engine_logprobs if self.loss.importance_cap is not None else None
        loss, stats = policy_loss(
            logprobs,
            old_part,
            rows.advantages[micro, :width].to(device),
            rows.mask[micro, :width].to(device),
            clip_low=self.loss.clip_low,
            clip_high=self.loss.clip_high,
            dual_clip=self.loss.dual_clip,
            aggregation=self.loss.aggregation,
            normalizer=normalizer,
            max_length=rows.max_tokens,
            ref_logprobs=self._reference_logprobs(rows, micro) if self.loss.kl_coef > 0 else None,
            kl_coef=self.loss.kl_coef,
            engine_logprobs=None if engine is None else engine[micro, :width].to(device),
            importance_cap=None if engine is None else self.loss.importance_cap,
        )
        return {"policy/loss": loss}, stats

    def _forward(self, rows: CreditRows, micro: Sequence[int], model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        return response_logprobs(
            model or self.policy,
            [rows.rollouts[row].prompt.ids for row in micro],
            [rows.rollouts[row].completion.ids for row in micro],
            rows.temperature,
            self.update.logits_chunk,
        )

    @torch.no_grad()
    def _reference_logprobs(self, rows: CreditRows, micro: Sequence[int]) -> torch.Tensor:
        if self._reference is None:
            reference = load_policy(self.policy_path).to(self.device, self.policy.dtype).requires_grad_(False)
            object.__setattr__(self, "_reference", reference)
        return self._forward(rows, micro, self._reference)[0]

    def _gather(
        self, passes: Passes, rows: CreditRows, micro: list[int], logprobs: torch.Tensor, entropy: torch.Tensor
    ) -> None:
        """Keep the logprobs before the update, and their distance from the engine's."""
        width = logprobs.shape[1]
        mask = rows.mask[micro, :width]
        passes.logprobs[micro, :width] = logprobs.float().cpu()
        passes.tokens += int(mask.sum())
        passes.entropy_sum += float((entropy.cpu() * mask).sum())
        if rows.engine_logprobs is not None:
            gap = (passes.logprobs[micro, :width] - rows.engine_logprobs[micro, :width]).abs() * mask
            passes.gap_sum += float(gap.sum())
            passes.gap_max = max(passes.gap_max, float(gap.max()) if gap.numel() else 0.0)

    def _normalizer(self, mask: torch.Tensor, max_tokens: int | None) -> float:
        """The loss's denominator: the mean over data-parallel ranks, since their gradients are averaged."""
        count = loss_normalizer(mask, self.loss.aggregation, max_tokens)
        local = torch.tensor(count, dtype=torch.float64, device=self.device)
        return float(self.trainer.strategy.reduce(local, reduce_op="mean"))

    def _minibatches(self, n: int, step: int) -> Iterator[list[int]]:
        count = min(self.update.minibatches, n)
        for epoch in range(self.update.epochs):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "minibatch", step, epoch))
            order = torch.randperm(n, generator=generator).tolist() if count > 1 else list(range(n))
            yield from (sorted(order[part::count]) for part in range(count))


def _loss_metrics(stats: LossStats, config: LossConfig) -> dict[str, float]:
    values = {
        "policy/clip_low_frac": float(stats.clip_low_frac),
        "policy/clip_high_frac": float(stats.clip_high_frac),
        "policy/ratio_mean": float(stats.ratio_mean),
        "policy/approx_kl": float(stats.approx_kl),
    }
    if config.importance_cap is not None:
        values["policy/importance_mean"] = float(stats.importance_mean)
        values["policy/importance_capped_frac"] = float(stats.importance_capped_frac)
    if config.kl_coef > 0:
        values["policy/kl_ref"] = float(stats.kl_ref)
    return values
