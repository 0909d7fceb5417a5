"""From a filled StepBatch to padded tensors: the one place where ragged facts become rows."""

from dataclasses import dataclass

import torch

from capo_lit.batch import Rollout, StepBatch, pad_rows
from capo_lit.core.credit import advantages, token_rewards
from capo_lit.core.steps import token_steps
from capo_lit.settings import CreditConfig


@dataclass(frozen=True)
class FactRows:
    """One row per rollout, right-padded to the longest response; all tensors on the CPU.

    Attributes:
        rollouts: n rollouts in row order.
        lengths: n; tokens of prompt and response together.
        mask: (n, t) bool; True on generated tokens of rollouts with a known outcome.
        outcome: (n,) float32; NaN if unknown.
        step_of_token: (n, t) int64; -1 on special tokens and padding.
        step_error: (n, t) float32; 0 where a token belongs to no step or nobody judged.
        engine_logprobs: (n, t) float32, or None if the engine gives none.
        temperature: that the rollouts were sampled at.
        max_tokens: longest response that could have been sampled, or None if not known.
    """

    rollouts: tuple[Rollout, ...]
    lengths: list[int]
    mask: torch.Tensor
    outcome: torch.Tensor
    step_of_token: torch.Tensor
    step_error: torch.Tensor
    engine_logprobs: torch.Tensor | None
    temperature: float
    max_tokens: int | None


@dataclass(frozen=True)
class CreditRows(FactRows):
    """The facts with the credit made of them.

    Attributes:
        token_rewards: (n, t) float32; 0 outside the mask.
        advantages: (n, t) float32; 0 outside the mask.
    """

    token_rewards: torch.Tensor
    advantages: torch.Tensor


def pad_facts(batch: StepBatch, w_process: float) -> FactRows:
    """The facts of a batch as rows.

    A rollout whose outcome is unknown keeps its row and leaves the mask, so it is in nobody's mean and in no loss.

    Args:
        batch: with rollouts, and with verdicts if wrong steps cost anything.
        w_process: what they cost.

    Raises:
        BatchError: if rollouts are missing, or verdicts are and w_process > 0.
    """
    rollouts = batch.require_rollouts()
    if w_process > 0:
        batch.require_verdicts()
    ids = [rollout.completion.ids for rollout in rollouts]
    generated = pad_rows([[1] * len(row) for row in ids], 0, torch.bool)
    # Every dtype is said: under bf16-true Lightning makes bfloat16 the default, which is too coarse for rewards.
    outcome = torch.tensor([rollout.outcome_or_nan for rollout in rollouts], dtype=torch.float32)
    steps, step_error = _steps_and_errors(batch, rollouts, generated.shape[1])
    return FactRows(
        rollouts=rollouts,
        lengths=[len(rollout.prompt.ids) + len(rollout.completion.ids) for rollout in rollouts],
        mask=generated & ~outcome.isnan()[:, None],
        outcome=outcome,
        step_of_token=steps,
        step_error=step_error,
        engine_logprobs=_engine_logprobs(rollouts),
        temperature=batch.sampling.temperature if batch.sampling else 1.0,
        max_tokens=batch.sampling.max_tokens if batch.sampling else None,
    )


def assign_credit(batch: StepBatch, config: CreditConfig, process_scale: float = 1.0) -> CreditRows:
    """Token rewards and advantages of a batch.

    Args:
        batch: with rollouts, and with verdicts if wrong steps cost anything.
        config: weights and estimator.
        process_scale: factor on w_process, in [0, 1]; 1 is the config's own weight.

    Raises:
        BatchError: if rollouts are missing, or verdicts are and w_process * process_scale > 0.
    """
    w_process = config.w_process * process_scale
    facts = pad_facts(batch, w_process)
    rewards = token_rewards(facts.outcome, facts.step_error, config.w_whole, w_process)
    rewards = torch.where(facts.mask, rewards, 0.0)
    credit = advantages(
        rewards,
        facts.mask,
        torch.tensor([rollout.group for rollout in facts.rollouts]),
        estimator=config.estimator,
        process=torch.where(facts.mask, -facts.step_error * w_process, 0.0),
        std_floor=config.std_floor,
        max_abs_advantage=config.max_abs_advantage,
    )
    return CreditRows(**vars(facts), token_rewards=rewards, advantages=credit)


def credit_metrics(rows: CreditRows) -> dict[str, float]:
    """The reward/ family: judged on token advantages after voting, never on outcomes alone."""
    group = torch.tensor([rollout.group for rollout in rows.rollouts])
    silent = [not bool(rows.advantages[group == index].any()) for index in group.unique()]
    tokens = rows.mask.sum().clamp(min=1)
    return {
        "reward/token_mean": float(rows.token_rewards.sum() / tokens),
        "reward/zero_std_group_frac": sum(silent) / len(silent),
        "reward/adv_abs_max": float(rows.advantages.abs().max()),
    }


def _engine_logprobs(rollouts: tuple[Rollout, ...]) -> torch.Tensor | None:
    """(n, t) float32, or None if the engine gave none."""
    rows = [rollout.completion.logprobs for rollout in rollouts]
    known = [row for row in rows if row is not None]
    return pad_rows(known, 0.0, torch.float32) if len(known) == len(rows) else None


def _steps_and_errors(batch: StepBatch, rollouts: tuple[Rollout, ...], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, t) step indices, -1 where a token belongs to none; (n, t) step errors, 0 there and where nobody judged."""
    steps = [token_steps(r.completion.pieces, r.spans, r.completion.special) for r in rollouts]
    verdicts = [item.verdict.step_error for item in batch.require_verdicts()] if batch.has_verdicts else []
    errors = [[e[step] if step >= 0 else 0.0 for step in row] for row, e in zip(steps, verdicts, strict=False)]
    step_error = torch.zeros((len(rollouts), width), dtype=torch.float32)
    if errors:
        step_error = pad_rows(errors, 0.0, torch.float32, width)
    return pad_rows(steps, -1, torch.long, width), step_error
