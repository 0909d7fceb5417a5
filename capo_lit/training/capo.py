"""CapoModule: token rewards and advantages from the verdicts, and the PPO-clip update. Facts in, gradient out."""

import time
from collections.abc import Iterator
from functools import reduce
from operator import add
from typing import Any

import torch

from capo_lit.batch.credit import CreditConfig, assign_credit
from capo_lit.batch.facts import TokenTable
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import BatchError
from capo_lit.core.loss import Sums, add_sums, loss_normalizer, policy_loss
from capo_lit.core.seeding import derive_seed
from capo_lit.evaluation.reduction import Mean, Parts
from capo_lit.evaluation.step import credit_metrics
from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.lora import adapters_off
from capo_lit.training.policy import PolicyModule
from capo_lit.training.settings import LossConfig, OptimConfig, UpdateConfig


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
        lora_rank: of adapters (LoRA), which alone are trained then; 0 trains all weights.
    """

    def __init__(
        self,
        policy: str,
        optim: OptimConfig = OptimConfig(),
        credit: CreditConfig = CreditConfig(),
        loss: LossConfig = LossConfig(),
        update: UpdateConfig = UpdateConfig(),
        seed: int = 0,
        lora_rank: int = 0,
    ) -> None:
        super().__init__(policy, optim, update, seed, lora_rank)
        self.credit, self.loss = credit, loss
        # Not a submodule: the reference never changes, so it stays out of optimizer and checkpoints.
        self._reference: Any = None

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One step of CAPO: token rewards and advantages from what was gathered, then PPO-clip on them."""
        batch.require_rollouts()  # waits for them, so that the time below is the update's
        self.rest_engine()
        started = time.perf_counter()
        table = self.assign_credit(batch)
        values = self.update_policy(table, batch.step)
        batch.set_credit(table)
        seconds = time.perf_counter() - started
        values |= {"time/update_s": seconds, "policy/train_tokens_per_s": Mean(sum(table.lengths), seconds)}
        self.measure(values | self.credit_metrics(table))

    def assign_credit(self, batch: StepBatch) -> TokenTable:
        """Facts to token rewards and advantages."""
        return assign_credit(batch, self.credit)

    def credit_metrics(self, table: TokenTable) -> Parts:
        """What to log of the credit."""
        return credit_metrics(table)

    def update_policy(self, table: TokenTable, step: int) -> Parts:
        """All optimizer steps of one batch of rollouts; fills the table's logprobs, and returns what to log.

        Raises:
            BatchError: if the importance correction is on and the engine gave no logprobs.
            UpdateError: if a gradient is not finite.
        """
        if self.loss.importance_cap is not None and table.engine_logprobs is None:
            raise _no_engine_logprobs(table, self.loss.importance_cap, step)
        updates = list(self._minibatches(len(table.rollouts), step))
        on_policy = len(updates) == 1  # then its own forward gives the old logprobs
        if not on_policy:
            self._fill_logprobs(table)
        sums: Sums = {}
        losses: Sums = {}
        norms: list[float] = []
        optimizer, prompts, responses = self.optimizers(), table.prompts, table.responses
        for picked in updates:
            normalizer = self._normalizer(table.mask[picked], table.max_tokens)
            plan = self.microbatches([prompts[row] for row in picked], [responses[row] for row in picked])
            for index, chosen in enumerate(plan):
                # Data-parallel ranks exchange gradients once per update, with its last micro-batch.
                with optimizer.toggle_model(sync_grad=index == len(plan) - 1):  # type: ignore[union-attr]
                    parts, part_sums = self._losses(table, [picked[row] for row in chosen], normalizer, on_policy)
                    # One backward for all, or data-parallel ranks would exchange gradients more than once.
                    self.manual_backward(reduce(add, parts.values()))
                sums = add_sums(sums, part_sums)
                losses = add_sums(losses, {name: part.detach().double() for name, part in parts.items()})
            norms.append(self.apply_gradient(optimizer))  # type: ignore[arg-type]
        # A loss is divided by the mean of the processes' normalizers: its mean over them is that of one process alone.
        values: Parts = {name: Mean(float(total), len(norms)) for name, total in losses.items()}
        return values | self._update_metrics(table, sums) | {"policy/grad_norm": Mean(sum(norms), len(norms))}

    @torch.no_grad()
    def _fill_logprobs(self, table: TokenTable) -> None:
        """Logprobs and entropy before the first of several updates."""
        for rows in self.microbatches(table.prompts, table.responses):
            logprobs, entropy = self._forward(table.take(rows, self.device))
            table.put(rows, logprobs=logprobs, entropy=entropy)

    def _losses(
        self, table: TokenTable, rows: list[int], normalizer: float, on_policy: bool
    ) -> tuple[dict[str, torch.Tensor], Sums]:
        """The terms of one micro-batch's loss, by the metric that logs them, and the sums of its statistics."""
        part = table.take(rows, self.device)
        logprobs, entropy = self._forward(part)
        if on_policy:
            table.put(rows, logprobs=logprobs, entropy=entropy)
        config = self.loss
        loss, sums = policy_loss(
            logprobs,
            logprobs.detach() if on_policy else part.logprobs,
            part.advantages,
            part.mask,
            clip_low=config.clip_low,
            clip_high=config.clip_high,
            aggregation=config.aggregation,
            normalizer=normalizer,
            max_length=table.max_tokens,
            ref_logprobs=self._reference_logprobs(part) if config.kl_coef > 0 else None,
            kl_coef=config.kl_coef,
            engine_logprobs=None if config.importance_cap is None else part.engine_logprobs,
            importance_cap=config.importance_cap,
        )
        return {"policy/loss": loss}, sums

    def _forward(self, part: TokenTable, model: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        return response_logprobs(model or self.policy, part.prompts, part.responses, part.temperature)

    @torch.no_grad()
    def _reference_logprobs(self, part: TokenTable) -> torch.Tensor:
        if self.lora_rank:
            with adapters_off(self.policy):
                return self._forward(part)[0]
        if self._reference is None:
            reference = self.load_initial().to(self.device, self.policy.dtype).requires_grad_(False)
            object.__setattr__(self, "_reference", reference)
        return self._forward(part, self._reference)[0]

    def _update_metrics(self, table: TokenTable, sums: Sums) -> Parts:
        """The policy/ family, but for the loss and its gradient."""
        names = ["clip_low_frac", "clip_high_frac", "ratio_mean", "approx_kl"]
        names += ["importance_mean", "importance_capped_frac"] if self.loss.importance_cap is not None else []
        names += ["kl_ref"] if self.loss.kl_coef > 0 else []
        trained, *totals = torch.stack([sums[name] for name in ("tokens", *names)]).tolist()
        tokens = float(table.mask.sum())
        values: Parts = {f"policy/{name}": Mean(total, trained) for name, total in zip(names, totals, strict=True)}
        values |= {
            "policy/lr": Mean(self.last_lr),
            "policy/entropy": Mean(float(table.entropy[table.mask].sum(dtype=torch.float64)), tokens),
            "policy/version": Mean(float(self.version)),
            "policy/pad_frac": self.padding(table.prompts, table.responses),
        }
        if table.engine_logprobs is not None:
            gap = (table.logprobs - table.engine_logprobs).abs() * table.mask
            values["policy/engine_logp_gap"] = Mean(float(gap.sum(dtype=torch.float64)), tokens)
            values["policy/engine_logp_gap_max"] = float(gap.max()) if gap.numel() else 0.0
        return values

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


def _no_engine_logprobs(table: TokenTable, cap: float, step: int) -> BatchError:
    missing = sum(rollout.completion.logprobs is None for rollout in table.rollouts)
    return BatchError(
        f"{missing} of {len(table.rollouts)} rollouts without the engine's logprobs, and importance_cap {cap:g}",
        "the engine's logprob of every sampled token, which the importance correction divides by",
        f"step {step}",
        "--rollout.engine (one that gives logprobs), or --model.loss.importance_cap null, which corrects nothing",
    )
