"""The paper's equations, transcribed literally in slow pure Python; what the vectorised core is compared with."""

import math
from collections.abc import Sequence

Rows = Sequence[Sequence[float]]


def token_rewards(outcomes: Sequence[float], step_errors: Rows, w_whole: float, w_process: float) -> list[list[float]]:
    """R[i][t] = r_i * W_whole - e[i][t] * W_process, rows ragged."""
    return [[r * w_whole - e * w_process for e in row] for r, row in zip(outcomes, step_errors, strict=True)]


def pooled_advantages(rewards: Rows, groups: Sequence[int], eps: float = 1e-6) -> list[list[float]]:
    """A[i][t] = (R[i][t] - mean) / (std + eps) over all tokens of all rows of the group; std has ddof 1."""
    result = []
    for row, group in zip(rewards, groups, strict=True):
        pool = [x for other, label in zip(rewards, groups, strict=True) if label == group for x in other]
        result.append([_normalised(x, pool, eps) for x in row])
    return result


def sequence_advantages(scores: Sequence[float], groups: Sequence[int], eps: float = 1e-4) -> list[float]:
    """GRPO: A[i] = (r_i - mean) / (std + eps) over the rows of the group; std has ddof 1."""
    return [
        _normalised(score, [s for s, label in zip(scores, groups, strict=True) if label == group], eps)
        for score, group in zip(scores, groups, strict=True)
    ]


def _normalised(value: float, pool: Sequence[float], eps: float) -> float:
    if max(pool) == min(pool):
        return 0.0
    mean = math.fsum(pool) / len(pool)
    std = math.sqrt(math.fsum((x - mean) ** 2 for x in pool) / (len(pool) - 1))
    return (value - mean) / (std + eps)


def token_loss(logprob: float, old: float, advantage: float, low: float, high: float) -> float:
    """PPO-clip of one token: -min(rho A, clip(rho, 1 - low, 1 + high) A)."""
    rho = math.exp(logprob - old)
    clipped = max(1 - low, min(rho, 1 + high))
    return -min(rho * advantage, clipped * advantage)


def policy_loss(logprobs: Rows, olds: Rows, advantages: Rows, low: float, high: float, aggregation: str) -> float:
    """Mean over all tokens ("token"), or over rows of the mean over their tokens ("sequence"); rows ragged."""
    rows = [
        [token_loss(*token, low, high) for token in zip(*row, strict=True)]
        for row in zip(logprobs, olds, advantages, strict=True)
        if row[0]
    ]
    if aggregation == "token":
        tokens = [loss for row in rows for loss in row]
        return math.fsum(tokens) / len(tokens)
    return math.fsum(math.fsum(row) / len(row) for row in rows) / len(rows)
