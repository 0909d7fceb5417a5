"""Masked and grouped reductions, in float64: a group of equal float32 rewards must show a spread of exactly zero."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Statistics of the valid values of every group; entries of a group without any are 0 and flat.

    Attributes:
        mean: (b,) float64.
        std: (b,) float64, ddof 1; 0 for fewer than two values.
        flat: (b,) bool; True where max == min (or differ by at most the allowed tie), so that nothing is to be learned.
    """

    mean: Float64[Tensor, " b"]
    std: Float64[Tensor, " b"]
    flat: Bool[Tensor, " b"]


def group_index(group: Int[Tensor, " n"]) -> tuple[Int[Tensor, " n"], int]:
    """Number the groups.

    Args:
        group: (n,) any label of each row's group; rows of a group need not be neighbours.

    Returns:
        (n,) int64 index in [0, b), and b.
    """
    labels, index = torch.unique(group, return_inverse=True)
    return index, labels.numel()


def masked_fill(values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> Float[Tensor, "n t"]:
    """Values with zeros outside the mask.

    A selection, not a product: NaN times zero is NaN, in the value and in the gradient.

    Args:
        values: (n, t), anything outside the mask, NaN and infinities included.
        mask: (n, t) bool.

    Returns:
        (n, t) of the dtype of `values`.
    """
    return torch.where(mask, values, torch.zeros((), dtype=values.dtype, device=values.device))


def row_mean(values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"]) -> Float64[Tensor, " n"]:
    """Mean of every row over the mask; 0 for a row without valid tokens.

    Args:
        values: (n, t).
        mask: (n, t) bool.

    Returns:
        (n,) float64, correctly rounded for float32 values (their float64 sum is exact).
    """
    return masked_fill(values, mask).sum(1, dtype=torch.float64) / mask.sum(1).clamp(min=1)


def group_max(
    values: Float[Tensor, "n t"], mask: Bool[Tensor, "n t"], index: Int[Tensor, " n"], num_groups: int
) -> Float64[Tensor, " b"]:
    """Largest valid value of every group; -inf for a group without any.

    Args:
        values: (n, t).
        mask: (n, t) bool.
        index: (n,) group of every row, in [0, b).
        num_groups: b.

    Returns:
        (b,) float64.
    """
    lowest = torch.full((num_groups,), -torch.inf, dtype=torch.float64, device=values.device)
    if values.shape[1] == 0:
        return lowest
    rows = torch.where(mask, values.double(), lowest.new_tensor(-torch.inf)).amax(1)
    return lowest.scatter_reduce(0, index, rows, "amax")


def group_stats(
    values: Float[Tensor, "n t"],
    mask: Bool[Tensor, "n t"],
    index: Int[Tensor, " n"],
    num_groups: int,
    tie: Float64[Tensor, " b"] | None = None,
) -> GroupStats:
    """Mean, std (ddof 1) and flatness of every group over all its valid values.

    mean = sum(x) / N;  std = sqrt(sum((x - mean)^2) / (N - 1))

    Args:
        values: (n, t).
        mask: (n, t) bool.
        index: (n,) group of every row, in [0, b).
        num_groups: b.
        tie: (b,) spreads up to this are rounding noise; exactly 0 by default.

    Returns:
        The statistics of the b groups.
    """

    def total(rows: Tensor) -> Tensor:
        return torch.zeros(num_groups, dtype=torch.float64, device=values.device).index_add(0, index, rows.double())

    count = total(mask.sum(1))
    mean = total(masked_fill(values, mask).sum(1, dtype=torch.float64)) / count.clamp(min=1)
    # Second pass over the deviations: sum(x^2) - N mean^2 would cancel when rewards carry a large constant.
    square = masked_fill(values.double() - mean[index, None], mask).square().sum(1)
    std = (total(square) / (count - 1).clamp(min=1)).sqrt()
    spread = group_max(values, mask, index, num_groups) + group_max(-values, mask, index, num_groups)
    flat = ~(spread > (0.0 if tie is None else tie))
    return GroupStats(mean, std, flat)
