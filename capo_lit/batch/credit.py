"""From a filled StepBatch to the table of its tokens, and from that to token rewards and advantages."""

from dataclasses import dataclass, replace

import torch

from capo_lit.batch.facts import Rollout, TokenTable
from capo_lit.batch.step import StepBatch, pad_rows
from capo_lit.core.credit import Estimator, advantages, token_rewards
from capo_lit.core.errors import ConfigError
from capo_lit.core.steps import token_steps


@dataclass
class CreditConfig:
    """Token rewards and advantages; the paper's equations.

    Args:
        w_whole: reward of a right answer, W_whole.
        w_process: what a wrong step's tokens lose, W_process; 0 asks for no verdicts.
        estimator: token_pooled (the paper: over all tokens of the group), sequence (GRPO: one scalar per rollout) or
            decoupled (outcome as sequence, process term normalised by itself).
        std_floor: smallest standard deviation that rewards are divided by; 0 is the paper.
        max_abs_advantage: cap on |advantage|; null is the paper.
    """

    w_whole: float = 2.0
    w_process: float = 1.0
    estimator: Estimator = "token_pooled"
    std_floor: float = 0.0
    max_abs_advantage: float | None = None

    def __post_init__(self) -> None:
        if self.w_process < 0:
            raise ConfigError(f"w_process {self.w_process}", "a number >= 0", change="--model.credit.w_process")


def token_table(batch: StepBatch, w_process: float) -> TokenTable:
    """The facts of a batch as a table, the one place where they are padded; its credit is still to be assigned.

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
    steps = [token_steps(r.completion.pieces, r.spans, r.completion.special) for r in rollouts]
    generated = pad_rows([[1] * len(rollout.completion.ids) for rollout in rollouts], 0, torch.bool)
    # Every dtype is said: under bf16-true Lightning makes bfloat16 the default, which is too coarse for rewards.
    outcome = torch.tensor([rollout.outcome_or_nan for rollout in rollouts], dtype=torch.float32)
    rewards, credit, logprobs, entropy = torch.zeros((4, *generated.shape), dtype=torch.float32)
    return TokenTable(
        rollouts=rollouts,
        mask=generated & ~outcome.isnan()[:, None],
        outcome=outcome,
        step_of_token=pad_rows(steps, -1, torch.long, generated.shape[1]),
        step_error=pad_rows(_step_errors(batch, steps), 0.0, torch.float32, generated.shape[1]),
        engine_logprobs=_engine_logprobs(rollouts),
        token_rewards=rewards,
        advantages=credit,
        logprobs=logprobs,
        entropy=entropy,
        temperature=batch.sampling.temperature if batch.sampling else 1.0,
        max_tokens=batch.sampling.max_tokens if batch.sampling else None,
    )


def assign_credit(batch: StepBatch, config: CreditConfig) -> TokenTable:
    """Token rewards and advantages of a batch, in its table.

    Args:
        batch: with rollouts, and with verdicts if wrong steps cost anything.
        config: weights and estimator.

    Raises:
        BatchError: if rollouts are missing, or verdicts are and w_process > 0.
    """
    table = token_table(batch, config.w_process)
    rewards = token_rewards(table.outcome, table.step_error, config.w_whole, config.w_process)
    rewards = torch.where(table.mask, rewards, 0.0)
    credit = advantages(
        rewards,
        table.mask,
        table.group,
        estimator=config.estimator,
        process=torch.where(table.mask, -table.step_error * config.w_process, 0.0),
        std_floor=config.std_floor,
        max_abs_advantage=config.max_abs_advantage,
    )
    return replace(table, token_rewards=rewards, advantages=credit)


def _engine_logprobs(rollouts: tuple[Rollout, ...]) -> torch.Tensor | None:
    """(n, t) float32, or None if the engine gave none."""
    rows = [rollout.completion.logprobs for rollout in rollouts]
    known = [row for row in rows if row is not None]
    return pad_rows(known, 0.0, torch.float32) if len(known) == len(rows) else None


def _step_errors(batch: StepBatch, steps: list[list[int]]) -> list[list[float]]:
    """The step error of every token: 0 where it belongs to no step, or nobody judged."""
    if not batch.has_verdicts:
        return [[] for _ in steps]
    errors = [item.verdict.step_error for item in batch.require_verdicts()]
    return [[e[step] if step >= 0 else 0.0 for step in row] for row, e in zip(steps, errors, strict=True)]
