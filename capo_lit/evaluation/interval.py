"""A mean over problems with its confidence interval, reduced over data-parallel ranks."""

from typing import Any

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from capo_lit.core.errors import BatchError

RESAMPLES = 2000
LEVEL = 0.95


class MeanInterval(Metric):
    """Mean of one value per problem, and the percentile bootstrap interval over problems.

    Problems are resampled, never samples of one problem: those are not independent. The resampling has a fixed seed of
    its own, so that one set of values has one interval.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13; scipy.stats.bootstrap.
    """

    is_differentiable = False
    full_state_update = False

    values: list[torch.Tensor] | torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("values", [], dist_reduce_fx="cat")

    def update(self, values: torch.Tensor) -> None:
        """Add problems.

        Args:
            values: (problems,) floats.

        Raises:
            BatchError: if the shape is another.
        """
        if values.ndim != 1:
            raise BatchError(f"values of shape {tuple(values.shape)}", "shape (problems,)")
        # float32 is what torchmetrics sends for a rank without values; another dtype would not match it.
        self.values.append(values.float())  # type: ignore[union-attr]

    def compute(self) -> torch.Tensor:
        """(3,) float64: the mean and the interval's ends, at a level of 0.95; NaN without problems."""
        values = (dim_zero_cat(self.values) if len(self.values) else torch.empty(0)).double()
        if not len(values):
            return torch.full((3,), float("nan"), dtype=torch.float64)
        mean = values.mean()
        if len(values) == 1 or bool((values == values[0]).all()):
            return torch.stack([mean, mean, mean])
        low, high = _interval(values.cpu())
        return torch.tensor([float(mean), low, high], dtype=torch.float64, device=values.device)


def _interval(values: torch.Tensor) -> tuple[float, float]:
    import numpy as np
    from scipy.stats import bootstrap

    # Sorted, so that the interval does not depend on which rank had which problem.
    data = (np.sort(values.numpy()),)
    found = bootstrap(
        data, np.mean, n_resamples=RESAMPLES, batch=100, confidence_level=LEVEL, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
