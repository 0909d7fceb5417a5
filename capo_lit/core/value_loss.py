"""Values and returns -> the clipped squared error of PPO's value function."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from capo_lit.core.loss import NUMERATORS, Aggregation
from capo_lit.core.reduce import masked_fill


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
