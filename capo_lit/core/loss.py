"""Logprobs and token advantages -> PPO-clip loss, and sums that its statistics are made of."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from capo_lit.core.reduce import masked_fill, row_mean

Aggregation = Literal["token", "sequence", "dr_grpo"]
Sums = dict[str, Tensor]
"""Sums by name, () float64: of two micro-batches they add up to those of both."""

# exp(20) is 5e8: far outside every clip range, far inside float32.
_MAX_LOG_RATIO = 20.0


# What each aggregation sums, and what it divides by: (mask, max_length) -> () float64.
NUMERATORS: dict[Aggregation, Callable[[Tensor, Tensor], Tensor]] = {
    "token": lambda loss, mask: loss.sum(dtype=torch.float64),
    "sequence": lambda loss, mask: row_mean(loss, mask).sum(),
    "dr_grpo": lambda loss, mask: loss.sum(dtype=torch.float64),
}
NORMALIZERS: dict[Aggregation, Callable[[Tensor, int | None], Tensor]] = {
    "token": lambda mask, max_length: mask.sum(dtype=torch.float64),
    "sequence": lambda mask, max_length: mask.any(1).sum(dtype=torch.float64),
    "dr_grpo": lambda mask, max_length: mask.new_tensor(mask.shape[0] * (max_length or 0), dtype=torch.float64),
}


def loss_normalizer(
    mask: Bool[Tensor, "n t"], aggregation: Aggregation = "token", max_length: int | None = None
) -> float:
    """What policy_loss divides by: tokens (token), rows that have a token (sequence), rows * max_length (dr_grpo).

    Additive: the sum over the micro-batches and ranks of an optimizer step is the step's own. Give that sum to every
    policy_loss of the step and the losses and gradients of the parts add up to those of the whole. (Where gradients
    are averaged over ranks, multiply the loss by their number.)

    Args:
        mask: (n, t) bool, of a micro-batch or of the whole step.
        aggregation: as for policy_loss.
        max_length: longest response a row may have, tokens; needed by dr_grpo, which counts rows without tokens too.

    Returns:
        The denominator; 0.0 for an empty part. Reading it waits for the device.

    Raises:
        ValueError: if the aggregation is unknown or dr_grpo lacks `max_length`.
    """
    _check_aggregation(aggregation)
    return float(_normalizer(mask, aggregation, max_length))


def _check_aggregation(aggregation: str) -> None:
    if aggregation not in NORMALIZERS:
        raise ValueError(f"got aggregation {aggregation!r}; expected one of {', '.join(get_args(Aggregation))}")


def _normalizer(mask: Tensor, aggregation: Aggregation, max_length: int | None) -> Tensor:
    if aggregation == "dr_grpo" and (max_length is None or max_length < 1):
        raise ValueError(f"got max_length {max_length}; expected tokens >= 1 for the dr_grpo aggregation")
    return NORMALIZERS[aggregation](mask, max_length)


def policy_loss(  # noqa: PLR0913  (four tensors and the settings of one equation; a bundle would only hide them)
    logprobs: Float[Tensor, "n t"],
    old_logprobs: Float[Tensor, "n t"],
    advantages: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    aggregation: Aggregation = "token",
    normalizer: float | None = None,
    max_length: int | None = None,
    ref_logprobs: Float[Tensor, "n t"] | None = None,
    kl_coef: float = 0.0,
    engine_logprobs: Float[Tensor, "n t"] | None = None,
    importance_cap: float | None = None,
) -> tuple[Float[Tensor, ""], Sums]:
    """PPO-clip loss with one advantage per token.

    rho = exp(lp - old);  l = -min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
    l = min(l, -dual_clip A) where A < 0, if a dual clip is set
    l = l * min(exp(old - engine), importance_cap), a constant weight, if engine logprobs are given
    l = l + kl_coef (exp(ref - lp) - (ref - lp) - 1), if reference logprobs are given
    loss = aggregate of l over the mask

    Every log difference is clamped to +-20 before exp, with no gradient beyond. Entries outside the mask may be
    anything, NaN included; they reach neither the loss nor a gradient.

    Args:
        logprobs: (n, t) natural-log probabilities under the policy, with gradient.
        old_logprobs: (n, t) under the policy before the update; logprobs.detach() if there is one update per batch.
        advantages: (n, t).
        mask: (n, t) bool.
        clip_low: in [0, 1].
        clip_high: >= 0.
        dual_clip: > 1, or None for none.
        aggregation: token (sum / tokens), sequence (sum of row means / rows that have a token) or dr_grpo
            (sum / (rows * max_length)).
        normalizer: denominator of the whole optimizer step, from `loss_normalizer`; of this call's mask by default.
        max_length: longest response a row may have, tokens; needed by dr_grpo unless `normalizer` is given.
        ref_logprobs: (n, t) under the reference policy.
        kl_coef: weight of the KL term; 0 only measures it.
        engine_logprobs: (n, t) under the engine that sampled, at the same temperature.
        importance_cap: > 0, largest importance weight; None leaves the weights uncut.

    Returns:
        () loss in the dtype of `logprobs`, at least float32 (0 with a graph if the mask is empty), and sums over the
        mask that stay on the device; `loss_means` divides them by `tokens`:
        clip_low_frac, clip_high_frac, dual_clip_frac: tokens whose gradient that clip removed.
        ratio_mean: of rho. approx_kl: of rho - log(rho) - 1, the k3 estimate of KL(old || now), nats.
        kl_ref: of the k3 estimate of KL(now || reference), nats; 0 without a reference.
        importance_mean: of the importance weights after the cap; 1 each without engine logprobs.
        importance_capped_frac: tokens whose weight was cut to the cap.

    Raises:
        ValueError: if a setting is out of range, or lacks the tensor it needs.

    Source:
        PPO (arXiv 1707.06347); dual clip: arXiv 1912.09729; dr_grpo: arXiv 2503.20783; k3: J. Schulman, "Approximating
        KL divergence"; CAPO (arXiv 2508.02298) for token advantages in it.
    """
    _check_ranges(clip_low, clip_high, dual_clip, importance_cap, normalizer)
    _check_partners(ref_logprobs, kl_coef, engine_logprobs, importance_cap)
    _check_aggregation(aggregation)
    # A denominator of 0 has a numerator of 0.
    count = _normalizer(mask, aggregation, max_length).clamp(min=1) if normalizer is None else normalizer or 1.0
    dtype = torch.promote_types(logprobs.dtype, torch.float32)
    now, old, adv = (masked_fill(x.to(dtype), mask) for x in (logprobs, old_logprobs.detach(), advantages.detach()))
    # An absent distribution stands for itself: weights of 1, a KL of 0.
    engine = old if engine_logprobs is None else masked_fill(engine_logprobs.detach().to(dtype), mask)
    ref = now.detach() if ref_logprobs is None else masked_fill(ref_logprobs.detach().to(dtype), mask)

    ratio = _ratio(now, old)
    raw_weight = _ratio(old, engine)
    weight = raw_weight if importance_cap is None else raw_weight.clamp(max=importance_cap)
    to_ref = _log_ratio(ref, now)
    ref_kl = to_ref.exp() - to_ref - 1
    loss = _surrogate(ratio, adv, clip_low, clip_high, dual_clip) * weight
    if kl_coef:
        loss = loss + kl_coef * ref_kl
    total = NUMERATORS[aggregation](loss, mask)

    with torch.no_grad():
        sums = {
            "tokens": _sum(mask),
            **_clip_sums(ratio, adv, clip_low, clip_high, dual_clip),
            "ratio_mean": _sum(masked_fill(ratio, mask)),
            "approx_kl": _sum(ratio - _log_ratio(now, old) - 1),
            "kl_ref": _sum(ref_kl),
            "importance_mean": _sum(masked_fill(weight, mask)),
            "importance_capped_frac": _sum(raw_weight > weight),
        }
    return (total / count).to(dtype), sums


def add_sums(total: Sums, part: Sums) -> Sums:
    """The sums of two sets of tokens together; a name that one of them lacks counts 0 there."""
    return {**total, **{name: total[name] + value if name in total else value for name, value in part.items()}}


def loss_means(sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Means over the tokens of one or several micro-batches, 0.0 if there are none; waits for the device once.

    Args:
        sums: of `policy_loss`, or several added up.
    """
    names = [name for name in sums if name != "tokens"]
    means = torch.stack([sums[name] for name in names]) / sums["tokens"].clamp(min=1)
    return dict(zip(names, means.tolist(), strict=True))


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)


def _log_ratio(upper: Tensor, lower: Tensor) -> Tensor:
    return (upper - lower).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)


def _ratio(upper: Tensor, lower: Tensor) -> Tensor:
    return _log_ratio(upper, lower).exp()


def _surrogate(ratio: Tensor, adv: Tensor, low: float, high: float, dual_clip: float | None) -> Tensor:
    loss = -torch.minimum(ratio * adv, ratio.clamp(1 - low, 1 + high) * adv)
    if dual_clip is None:
        return loss
    return torch.where(adv < 0, torch.minimum(loss, -dual_clip * adv), loss)


def _clip_sums(ratio: Tensor, adv: Tensor, low: float, high: float, dual_clip: float | None) -> Sums:
    falling, rising = adv < 0, adv > 0
    return {
        "clip_low_frac": _sum(falling & (ratio < 1 - low)),
        "clip_high_frac": _sum(rising & (ratio > 1 + high)),
        "dual_clip_frac": _sum(falling & (ratio > (torch.inf if dual_clip is None else dual_clip))),
    }


def _check_ranges(
    low: float, high: float, dual_clip: float | None, cap: float | None, normalizer: float | None
) -> None:
    checks = (
        (0 <= low <= 1, f"clip_low {low}", "a number in [0, 1]"),
        (high >= 0, f"clip_high {high}", "a number >= 0"),
        (dual_clip is None or dual_clip > 1, f"dual_clip {dual_clip}", "a number > 1, or None"),
        (cap is None or cap > 0, f"importance_cap {cap}", "a number > 0, or None"),
        (normalizer is None or normalizer >= 0, f"normalizer {normalizer}", "a number >= 0, or None"),
    )
    for holds, got, expected in checks:
        if not holds:
            raise ValueError(f"got {got}; expected {expected}")


def _check_partners(ref: Tensor | None, kl_coef: float, engine: Tensor | None, cap: float | None) -> None:
    if kl_coef and ref is None:
        raise ValueError(f"got kl_coef {kl_coef} without ref_logprobs; expected both, or kl_coef 0")
    if cap is not None and engine is None:
        raise ValueError(f"got importance_cap {cap} without engine_logprobs; expected both, or importance_cap None")
