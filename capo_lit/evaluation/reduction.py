"""What processes know of a step's metrics, and the one exchange that makes values of it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.names import STEP_SPECS, MetricSpec, spec


class Mean(NamedTuple):
    """What one process knows of a mean: numerator and denominator. A weight of 1 is "one value a process"."""

    total: float
    weight: float = 1.0


Part = float | Mean
"""What one process knows of a metric: a mean's two numbers, its share of a sum, or its own largest value."""
Parts = dict[str, Part]


def check_parts(parts: Mapping[str, Part]) -> None:
    """Look up every name, and whether its value can be reduced as evaluation/names.py says.

    Raises:
        ConfigError: for the first one that is not defined there, or a number where a mean has two, or the reverse.
    """
    for name, part in parts.items():
        kind = spec(name).reduction
        if isinstance(part, Mean) != (kind == "mean"):
            raise ConfigError(
                f"{part!r} for {name}",
                "a Mean (numerator, denominator)" if kind == "mean" else f"a number, of which the {kind} is taken",
                "the step's metrics",
                "the caller, or the reduction in capo_lit/evaluation/names.py",
            )


def pack(parts: Mapping[str, Part]) -> Tensor:
    """One process's step as a row of numbers for every metric that there is, whichever of them it has.

    So every process sends the same shape, and none waits for another because a name is missing there.

    Returns:
        (2, m) float64: per metric of STEP_SPECS numerator, sum or maximum; below it the denominator, or 1. Where this
        process has no value the lower number is 0.
    """
    columns = [_column(metric, parts.get(metric.name)) for metric in STEP_SPECS]
    return torch.tensor(columns, dtype=torch.float64).T.contiguous()


def _column(metric: MetricSpec, part: Part | None) -> tuple[float, float]:
    if part is None:
        return (-torch.inf if metric.reduction == "max" else 0.0), 0.0
    return (part.total, part.weight) if isinstance(part, Mean) else (part, 1.0)


def unpack(rows: Tensor) -> dict[str, float]:
    """The step's values from what all processes have packed.

    Args:
        rows: (ranks, 2, m) of `pack`.

    Returns:
        By name; without those that no process had anything to divide by, or to add up.
    """
    sums, largest = rows.sum(0).tolist(), rows[:, 0].amax(0).tolist()
    values = {}
    for index, metric in enumerate(STEP_SPECS):
        total, weight = sums[0][index], sums[1][index]
        if weight:
            values[metric.name] = {"mean": total / weight, "sum": total, "max": largest[index]}[metric.reduction]
    return values


def reduced(parts: Mapping[str, Part], gather: Callable[[Tensor], Tensor] = lambda row: row) -> dict[str, float]:
    """The values of a step, with one exchange.

    Args:
        parts: what this process knows.
        gather: (2, m) of every process to (ranks, 2, m) on all of them; by default this process is the only one.

    Returns:
        Values by name, the same on every process.

    Raises:
        ConfigError: as `check_parts`.
    """
    check_parts(parts)
    row = pack(parts)
    return unpack(gather(row).reshape(-1, *row.shape))
