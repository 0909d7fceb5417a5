"""Rewards in time and values -> generalized advantage estimates, and the values' loss: PPO's credit assignment."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from capo_lit.core.loss import NUMERATORS, Aggregation
from capo_lit.core.reduce import masked_fill

# Keeps a batch without spread at 0, far below any spread that means something.
_EPS = 1e-8


def timed_rewards(
    outcome: Float[Tensor, " n"],
    step_error: Float[Tensor, "n t"],
    step_of_token: Int[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    w_whole: float,
    w_process: float,
) -> Float[Tensor, "n t"]:
    """Rewards that GAE may add up over time: the outcome at the end, a wrong step's cost spread over its tokens.

    R[i,t] = [t is row i's last token] r_i * W_whole - e[i,step(t)] * W_process / |tokens of step(t)|

    CAPO's token rewards are compared token with token and never added up. GAE adds rewards up, so that here a wrong
    step costs e * W_process once, and not once per token: a long step is not worse than a short one.

    Args:
        outcome: (n,) 1 right, 0 wrong; anything in rows without a token in the mask.
        step_error: (n, t) in [0, 1], e of the token's step.
        step_of_token: (n, t) step of every token, >= 0, or -1 for tokens of no step.
        mask: (n, t) bool, True on generated tokens.
        w_whole: W_whole >= 0.
        w_process: W_process >= 0.

    Returns:
        (n, t); 0 outside the mask.
    """
    steps = torch.where(mask, step_of_token, -1) + 1  # column 0 counts the tokens of no step
    most = int(steps.max()) + 1 if steps.numel() else 1
    counts = mask.new_zeros((mask.shape[0], most), dtype=torch.long).scatter_add(1, steps, torch.ones_like(steps))
    share = masked_fill(step_error, mask & (steps > 0)) / counts.gather(1, steps)
    last = mask & (mask.flip(1).cumsum(1).flip(1) == 1)
    return torch.where(last, outcome[:, None] * w_whole, 0.0) - share * w_process


def gae(
    rewards: Float[Tensor, "n t"], values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], gamma: float, lam: float
) -> tuple[Float32[Tensor, "n t"], Float32[Tensor, "n t"]]:
    """Generalized advantage estimation; the last token of a row ends its episode, cut off or not.

    delta_t = R_t + gamma V_{t+1} - V_t;  A_t = delta_t + gamma lam A_{t+1};  returns = A + V

    V and A are 0 past the end.

    Args:
        rewards: (n, t); anything outside the mask.
        values: (n, t) V_t, the value before token t was drawn; anything outside the mask.
        mask: (n, t) bool; tokens outside it are skipped, as if they were not there.
        gamma: discount in [0, 1].
        lam: in [0, 1]; 1 gives discounted returns minus values, 0 the one-step error delta.

    Returns:
        Advantages and returns, each (n, t) float32, 0 outside the mask.

    Raises:
        ValueError: if gamma or lam is not in [0, 1].

    Source:
        GAE (arXiv 1506.02438), equation 16.
    """
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not 0 <= value <= 1:
            raise ValueError(f"got {name} {value}; expected a number in [0, 1]")
    reward, value_now = masked_fill(rewards.double(), mask), masked_fill(values.double(), mask)
    advantages = torch.zeros_like(reward)
    after, value_after = reward.new_zeros(len(reward)), reward.new_zeros(len(reward))
    for t in reversed(range(reward.shape[1])):
        delta = reward[:, t] + gamma * value_after - value_now[:, t]
        after = torch.where(mask[:, t], delta + gamma * lam * after, after)
        value_after = torch.where(mask[:, t], value_now[:, t], value_after)
        advantages[:, t] = torch.where(mask[:, t], after, 0.0)
    return advantages.float(), (advantages + value_now).float()


def _alone(total: Tensor) -> Tensor:
    return total


def whiten(
    values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], total: Callable[[Tensor], Tensor] = _alone
) -> Float32[Tensor, "n t"]:
    """Shift and scale to mean 0 and standard deviation 1 over all tokens of the batch.

    (x - mean) / (std + 1e-8), std with ddof 0

    Args:
        values: (n, t); anything outside the mask.
        mask: (n, t) bool.
        total: adds a () float64 sum up over data-parallel ranks; by default there is one rank.

    Returns:
        (n, t) float32, 0 outside the mask, and 0 everywhere if all values are equal.
    """
    count = total(mask.sum(dtype=torch.float64)).clamp(min=1)
    centred = values.double() - total(masked_fill(values.double(), mask).sum()) / count
    centred = masked_fill(centred, mask)
    std = (total(centred.square().sum()) / count).sqrt()
    return (centred / (std + _EPS)).float()


def explained_variance(
    returns: Float[Tensor, "n t"],
    values: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    total: Callable[[Tensor], Tensor] = _alone,
) -> tuple[float, float]:
    """How much of the returns' variance the values know: 1 - Var(returns - values) / Var(returns), over the mask.

    Args:
        returns: (n, t); anything outside the mask.
        values: (n, t); anything outside the mask.
        mask: (n, t) bool.
        total: adds a (3,) float64 sum up over data-parallel ranks; by default there is one rank.

    Returns:
        Numerator and denominator, of this rank's tokens; summed over ranks their quotient is the explained share. It is
        at most 1; 0 for values that say nothing, negative for values that mislead. Returns that do not vary have a
        denominator of 0.
    """
    seen = returns[mask].double()
    missed = seen - values[mask].double()
    count, *sums = total(torch.stack([mask.sum(dtype=torch.float64), seen.sum(), missed.sum()])).unbind()
    whole, unknown = (
        float((x - s / count.clamp(min=1)).square().sum()) for x, s in zip((seen, missed), sums, strict=True)
    )
    return whole - unknown, whole


def value_loss(
    values: Float[Tensor, "n t"],
    old_values: Float[Tensor, "n t"],
    returns: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    clip: float | None = 0.2,
    aggregation: Aggregation = "token",
    normalizer: float,
) -> Float[Tensor, ""]:
    """Squared error of the values, the larger of the plain and the clipped one.

    l = max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) / 2;  loss = aggregate of l over the mask / normalizer

    Args:
        values: (n, t) V, with gradient; anything outside the mask.
        old_values: (n, t) values before the first update of the batch.
        returns: (n, t) R, what the values should be.
        mask: (n, t) bool.
        clip: c > 0, how far one batch may move a value; None for no limit.
        aggregation: as for policy_loss.
        normalizer: denominator of the whole optimizer step, from `core.loss.loss_normalizer`.

    Returns:
        () loss in float32, 0 with a graph if the mask is empty.

    Raises:
        ValueError: if `clip` is not above 0.

    Source:
        PPO (arXiv 1707.06347), equation 9; the clip is of its reference implementation.
    """
    if clip is not None and clip <= 0:
        raise ValueError(f"got clip {clip}; expected a number > 0, or None")
    now, old, target = (masked_fill(x.float(), mask) for x in (values, old_values.detach(), returns.detach()))
    error = (now - target).square()
    if clip is not None:
        clipped = torch.clamp(now, old - clip, old + clip)
        error = torch.maximum(error, (clipped - target).square())
    return (NUMERATORS[aggregation](error / 2, mask) / (normalizer or 1.0)).float()
