"""verl's formulas (release 0.9.1), written out for one number at a time in float64.

Scalars are 0-dim tensors, so that the loops have gradients. Rows are ragged lists: what verl masks is not there.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Row = Sequence[Tensor]


def outcome_advantages(
    scores: Sequence[float], groups: Sequence[int], eps: float = 1e-6, divide: bool = True
) -> list[float]:
    """(score - mean) / (std + eps) over the group, ddof 1; a rollout alone in its group keeps score / (1 + eps)."""
    result = []
    for score, group in zip(scores, groups, strict=True):
        pool = [other for other, label in zip(scores, groups, strict=True) if label == group]
        if len(pool) == 1:
            mean, std = 0.0, 1.0
        else:
            mean = math.fsum(pool) / len(pool)
            std = math.sqrt(math.fsum((x - mean) ** 2 for x in pool) / (len(pool) - 1))
        result.append((score - mean) / (std + eps) if divide else score - mean)
    return result


def token_loss(now: Tensor, old: Tensor, adv: float, low: float, high: float, dual: float = 3.0) -> Tensor:
    """max(-rho A, -clip(rho) A), and for A < 0 at most -dual A; log rho is kept within 20 of 0."""
    ratio = _within(now - old, 20.0).exp()
    clipped = 1 - low if ratio < 1 - low else 1 + high if ratio > 1 + high else ratio
    loss = max(-adv * ratio, -adv * clipped)
    return min(loss, torch.tensor(-adv * dual, dtype=torch.float64)) if adv < 0 else loss


def token_kl(now: Tensor, reference: Tensor) -> Tensor:
    """low_var_kl: e^d - d - 1 with d = ref - lp kept within 20 of 0, and the whole within 10."""
    distance = _within(reference - now, 20.0)
    return _within(distance.exp() - distance - 1, 10.0)


def rollout_weights(olds: Row, engines: Row, level: str = "token", cap: float = 2.0) -> list[float]:
    """min(exp(old - engine), cap) of every token; at level "sequence" one weight, of the row's summed differences."""
    gaps = [float(old - engine) for old, engine in zip(olds, engines, strict=True)]
    if level == "sequence":
        gaps = [math.fsum(gaps)] * len(gaps)
    return [min(math.exp(max(-20.0, min(gap, 20.0))), cap) for gap in gaps]


def aggregate(rows: Sequence[Row], mode: str, scale: int = 1) -> Tensor:
    """agg_loss of one process: rows without tokens do not count; `scale` is the loss_scale_factor of the last mode."""
    filled = [row for row in rows if len(row)]
    sums = [sum(row[1:], row[0]) for row in filled]
    total = sum(sums[1:], sums[0])
    if mode == "token-mean":
        return total / sum(len(row) for row in filled)
    if mode == "token-sum":
        return total
    if mode == "seq-mean-token-mean":
        means = [row_sum / (len(row) + 1e-8) for row_sum, row in zip(sums, filled, strict=True)]
        return sum(means[1:], means[0]) / len(filled)
    if mode == "seq-mean-token-sum":
        return total / len(filled)
    if mode == "seq-mean-token-sum-norm":
        return total / len(filled) / scale
    raise ValueError(f"got mode {mode!r}")


def _within(value: Tensor, bound: float) -> Tensor:
    """The value, or the bound (which has no gradient) on the side where the value is beyond it."""
    return value.clamp(-bound, bound)


def gae(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> tuple[list[float], list[float]]:
    """Advantages and returns of one row before whitening, from its last token to its first; masked tokens left out."""
    advantages: list[float] = []
    value_after = after = 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        after = reward + gamma * value_after - value + gamma * lam * after
        value_after = value
        advantages.insert(0, after)
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def whiten(values: Sequence[float]) -> list[float]:
    """(x - mean) / sqrt(variance + 1e-8), ddof 1."""
    mean = math.fsum(values) / len(values)
    variance = math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1)
    return [(x - mean) / math.sqrt(variance + 1e-8) for x in values]


def value_loss(now: Tensor, old: float, target: float, clip: float) -> Tensor:
    """Half the larger squared error, of the value and of the value kept within `clip` of the old one."""
    kept = now.clamp(old - clip, old + clip)
    return max((now - target) ** 2, (kept - target) ** 2) / 2
