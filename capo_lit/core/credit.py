"""Outcomes and step errors -> token rewards -> advantages."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int
from torch import Tensor

from capo_lit.core.reduce import GroupStats, group_index, group_max, group_stats, masked_fill, row_mean

Estimator = Literal["token_pooled", "sequence", "decoupled"]

# Spreads, relative to the largest reward, that are rounding noise: of float64 row means; of outcome = reward - process,
# which inherits the relative error of float32 rewards (6e-8).
_MEAN_NOISE = 1e-12
_DIFFERENCE_NOISE = 1e-6


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


@dataclass(frozen=True, slots=True)
class _Terms:
    """What an estimator sees: rewards (n, t) and process part (n, t) or None, zero outside mask (n, t); group (n,)."""

    rewards: Tensor
    process: Tensor | None
    mask: Tensor
    index: Tensor
    num_groups: int
    std_floor: float
    eps: float | None

    def stats(self, values: Tensor, mask: Tensor, tie: Tensor | None = None) -> GroupStats:
        return group_stats(values, mask, self.index, self.num_groups, tie)

    def normalize(self, values: Tensor, stats: GroupStats, default_eps: float) -> Tensor:
        """(values - mean) / (max(std, floor) + eps), exactly 0 in flat groups; float64."""
        eps = default_eps if self.eps is None else self.eps
        scale = stats.std.clamp(min=self.std_floor) + eps
        # A flat group may have std + eps == 0: divide by 1 there, the result is replaced anyway.
        scale = torch.where(stats.flat, 1.0, scale)
        scaled = (values.double() - stats.mean[self.index, None]) / scale[self.index, None]
        return masked_fill(scaled, ~stats.flat[self.index, None].expand_as(scaled))


def _pooled(terms: _Terms, values: Tensor) -> Tensor:
    return terms.normalize(values, terms.stats(values, terms.mask), default_eps=1e-6)


def _per_row(terms: _Terms, values: Tensor, noise: float) -> Tensor:
    rows = row_mean(values, terms.mask)[:, None]
    size = terms.rewards.abs() if terms.process is None else torch.maximum(terms.rewards.abs(), terms.process.abs())
    tie = noise * group_max(size, terms.mask, terms.index, terms.num_groups).clamp(min=0)
    return terms.normalize(rows, terms.stats(rows, terms.mask.any(1, keepdim=True), tie), default_eps=1e-4)


def _token_pooled(terms: _Terms) -> Tensor:
    return _pooled(terms, terms.rewards)


def _sequence(terms: _Terms) -> Tensor:
    return _per_row(terms, terms.rewards, _MEAN_NOISE)


def _decoupled(terms: _Terms) -> Tensor:
    if terms.process is None:
        raise ValueError("got no process term; expected process=(n, t), the part of the rewards that steps gave")
    outcome = terms.rewards.double() - terms.process.double()
    return _per_row(terms, outcome, _DIFFERENCE_NOISE) + _pooled(terms, terms.process)


ESTIMATORS: dict[Estimator, Callable[[_Terms], Float64[Tensor, "n #t"]]] = {
    "token_pooled": _token_pooled,
    "sequence": _sequence,
    "decoupled": _decoupled,
}


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
    index, num_groups = group_index(group)
    part = None if process is None else masked_fill(process, valid)
    terms = _Terms(masked_fill(rewards, valid), part, valid, index, num_groups, std_floor, eps)
    result = masked_fill(ESTIMATORS[estimator](terms).expand_as(valid), valid)
    if max_abs_advantage is not None:
        result = result.clamp(-max_abs_advantage, max_abs_advantage)
    return result.float()
