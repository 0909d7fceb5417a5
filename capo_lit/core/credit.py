"""Outcomes and step errors -> token rewards -> advantages."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from capo_lit.core.reduce import group_index, group_max, group_stats, masked_fill, row_mean

Estimator = Literal["token_pooled", "sequence", "decoupled"]

# Spreads, relative to the largest reward, that are rounding noise: of float64 row means; of outcome = reward - process,
# which inherits the relative error of float32 rewards (6e-8).
_MEAN_NOISE = 1e-12
_DIFFERENCE_NOISE = 1e-6
# What is added to a standard deviation: over the tokens of a group, and over its rows (TRL's).
_TOKEN_EPS, _ROW_EPS = 1e-6, 1e-4


def token_rewards(
    outcome: Float[Tensor, " n"], step_error: Float[Tensor, "n t"], w_whole: float, w_process: float
) -> Float[Tensor, "n t"]:
    """Reward of every token.

    R[i,t] = r_i * W_whole - e[i,step(t)] * W_process

    Args:
        outcome: (n,) 1 right, 0 wrong, NaN unknown.
        step_error: (n, t) in [0, 1], e of the token's step; 0 for tokens of no step (special tokens, padding).
        w_whole: W_whole >= 0 (2 in the paper).
        w_process: W_process >= 0 (1 in the paper).

    Returns:
        (n, t); all NaN in the rows with an unknown outcome, and only there.

    Source:
        CAPO (arXiv 2508.02298), asymmetric reward shaping.
    """
    return outcome[:, None] * w_whole - step_error * w_process


def token_pooled(
    rewards: Tensor, process: Tensor | None, mask: Tensor, group: Tensor, eps: float | None, std_floor: float
) -> Float64[Tensor, "n t"]:
    """The paper's: mean and std over all tokens of the group.

    Every estimator takes the same: rewards (n, t) and their process term (n, t), both 0 outside mask (n, t); group (n,)
    in [0, b); and what `advantages` says of eps and std_floor. It returns (n, t) or (n, 1) float64.
    """
    return _normalize(rewards, mask, group, _TOKEN_EPS if eps is None else eps, std_floor)


def sequence(
    rewards: Tensor, process: Tensor | None, mask: Tensor, group: Tensor, eps: float | None, std_floor: float
) -> Float64[Tensor, "n 1"]:
    """GRPO's: one number a row, its mean reward, among those of the group."""
    size = rewards.abs() if process is None else torch.maximum(rewards.abs(), process.abs())
    return _per_row(rewards, size, mask, group, _ROW_EPS if eps is None else eps, std_floor, _MEAN_NOISE)


def decoupled(
    rewards: Tensor, process: Tensor | None, mask: Tensor, group: Tensor, eps: float | None, std_floor: float
) -> Float64[Tensor, "n t"]:
    """`sequence` of what the outcome gave, plus `token_pooled` of what the steps did; each has a std of its own."""
    if process is None:
        raise ValueError("got no process term; expected process=(n, t), the part of the rewards that steps gave")
    size, row_eps = torch.maximum(rewards.abs(), process.abs()), _ROW_EPS if eps is None else eps
    outcome = rewards.double() - process.double()
    by_row = _per_row(outcome, size, mask, group, row_eps, std_floor, _DIFFERENCE_NOISE)
    return by_row + token_pooled(process, None, mask, group, eps, std_floor)


ESTIMATORS: dict[Estimator, Callable[..., Float64[Tensor, "n #t"]]] = {
    "token_pooled": token_pooled,
    "sequence": sequence,
    "decoupled": decoupled,
}


def _per_row(
    values: Tensor, size: Tensor, mask: Tensor, group: Tensor, eps: float, std_floor: float, noise: float
) -> Tensor:
    """Row means among those of their group; a spread below `noise` of the group's largest `size` is none."""
    tie = noise * group_max(size, mask, group, _count(group)).clamp(min=0)
    return _normalize(row_mean(values, mask)[:, None], mask.any(1, keepdim=True), group, eps, std_floor, tie)


def _normalize(
    values: Tensor, mask: Tensor, group: Tensor, eps: float, std_floor: float, tie: Tensor | None = None
) -> Tensor:
    """(values - mean) / (max(std, floor) + eps) in every group, exactly 0 in flat ones; float64."""
    stats = group_stats(values, mask, group, _count(group), tie)
    scale = stats.std.clamp(min=std_floor) + eps
    # A flat group may have std + eps == 0: divide by 1 there, the result is replaced anyway.
    scale = torch.where(stats.flat, 1.0, scale)
    scaled = (values.double() - stats.mean[group, None]) / scale[group, None]
    return masked_fill(scaled, ~stats.flat[group, None].expand_as(scaled))


def _count(group: Tensor) -> int:
    return int(group.max()) + 1 if group.numel() else 0


def advantages(
    rewards: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    group: Int[Tensor, " n"],
    estimator: Estimator = "token_pooled",
    *,
    process: Float[Tensor, "n t"] | None = None,
    eps: float | None = None,
    std_floor: float = 0.0,
    max_abs_advantage: float | None = None,
) -> Float32[Tensor, "n t"]:
    """Normalise token rewards within every group.

    token_pooled (the paper): A[i,t] = (R[i,t] - mean) / (std + eps), mean and std over all tokens of the group.
    sequence (GRPO): A[i,t] = (S_i - mean(S)) / (std(S) + eps), S_i the mean of row i's token rewards.
    decoupled: `sequence` of the outcome term plus `token_pooled` of the process term; each is divided by its own
        std, so that W_whole and W_process drop out but for eps.

    Every std has ddof 1. A group with max == min (of what the estimator pools) gets exactly 0. A token outside the
    mask, or with a NaN reward (unknown outcome), leaves the statistics and gets 0.

    Args:
        rewards: (n, t) token rewards; anything outside the mask.
        mask: (n, t) bool, True on generated tokens.
        group: (n,) label of each row's prompt.
        estimator: see above.
        process: (n, t) process term of `rewards`, -e * W_process; needed by decoupled alone.
        eps: added to every std; by default 1e-6 where tokens are pooled and 1e-4 where rows are.
        std_floor: smallest std that is divided by, before eps, in units of the reward; 0 is the paper.
        max_abs_advantage: advantages are clamped to +- this, last; None is the paper.

    Returns:
        (n, t) float32, 0 outside the mask.

    Raises:
        ValueError: if the estimator is unknown, a bound is negative, or decoupled lacks `process`.

    Source:
        CAPO (arXiv 2508.02298), advantage over all tokens of the group; GRPO (arXiv 2402.03300) for `sequence`.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"got estimator {estimator!r}; expected one of {', '.join(get_args(Estimator))}")
    for name, bound in (("eps", eps), ("std_floor", std_floor), ("max_abs_advantage", max_abs_advantage)):
        if bound is not None and bound < 0:
            raise ValueError(f"got {name} {bound}; expected a number >= 0")
    valid = mask & ~rewards.isnan()
    index, _ = group_index(group)
    part = None if process is None else masked_fill(process, valid)
    made = ESTIMATORS[estimator](masked_fill(rewards, valid), part, valid, index, eps, std_floor)
    result = masked_fill(made.expand_as(valid), valid)
    if max_abs_advantage is not None:
        result = result.clamp(-max_abs_advantage, max_abs_advantage)
    return result.float()
