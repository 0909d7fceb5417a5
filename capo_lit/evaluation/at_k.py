"""avg@k, pass@k and maj@k over sampled outcomes, reduced over data-parallel ranks."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torchmetrics import Metric

from capo_lit.core.errors import BatchError, ConfigError


class _AtK(Metric):
    """Mean over problems of a score of each problem's known outcomes.

    An unknown outcome (NaN) leaves the statistics: a problem is scored on its known samples alone. A problem with too
    few of them is left out of the mean.

    Attributes:
        unknown: outcomes that were NaN.
        left_out: problems with fewer than `needed` known outcomes.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: torch.Tensor
    problems: torch.Tensor
    unknown: torch.Tensor
    left_out: torch.Tensor

    def __init__(self, needed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.needed = needed
        # Sums, so that ranks with different numbers of problems, none included, reduce to the same mean.
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        for name in ("problems", "unknown", "left_out"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, outcomes: torch.Tensor) -> None:
        """Add problems.

        Args:
            outcomes: (problems, n) floats: 1.0 right, 0.0 wrong, NaN unknown.

        Raises:
            BatchError: if shape or values are others.
            ConfigError: if n is smaller than the metric needs.
        """
        if outcomes.ndim != 2:
            raise BatchError(f"outcomes of shape {tuple(outcomes.shape)}", "shape (problems, samples)")
        if outcomes.shape[1] < self.needed:
            raise ConfigError(
                f"{outcomes.shape[1]} samples per problem",
                f"at least {self.needed} for {type(self).__name__}",
                change="--rollout.eval_samples",
            )
        known = ~outcomes.isnan()
        if not ((outcomes == 0) | (outcomes == 1) | ~known).all():
            raise BatchError("an outcome other than 0, 1 and NaN", "1.0 right, 0.0 wrong, NaN unknown")
        samples, right = known.sum(1).double(), outcomes.nan_to_num(0.0).double().sum(1)
        scored = samples >= self.needed
        self.total += self._scores(samples[scored], right[scored]).sum()
        self.problems += scored.sum()
        self.unknown += (~known).sum()
        self.left_out += (~scored).sum()

    def compute(self) -> torch.Tensor:
        """The mean over scored problems; NaN if there are none, since nothing was measured."""
        return (self.total / self.problems).float()

    def _scores(self, samples: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Score of each problem from its known samples n and right ones c, both (problems,) float64."""
        raise NotImplementedError


class AvgAtK(_AtK):
    """avg@k: c / n of every problem with n >= 1 known samples, c of them right; then the mean over problems."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(needed=1, **kwargs)

    def _scores(self, samples: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return right / samples


class PassAtK(_AtK):
    """pass@k, unbiased: 1 - C(n - c, k) / C(n, k) of every problem with n >= k known samples, c of them right.

    Args:
        k: samples of which one must be right.
        kwargs: of torchmetrics.Metric.

    Source:
        Chen et al. 2021, Evaluating Large Language Models Trained on Code (arXiv 2107.03374), equation 1.
    """

    def __init__(self, k: int, **kwargs: Any) -> None:
        if k < 1:
            raise ConfigError(f"k {k}", "an integer >= 1", "PassAtK", "--rollout.eval_samples")
        super().__init__(needed=k, **kwargs)
        self.k = k

    def _scores(self, samples: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        # C(n - c, k) / C(n, k) as a product of k fractions: no large binomial is ever formed, and where n - c < k one
        # of the factors is 0.
        drawn = torch.arange(self.k, device=samples.device, dtype=samples.dtype)
        left, wrong = samples[:, None] - drawn, (samples - right)[:, None] - drawn
        return 1.0 - (wrong / left).prod(1)


class MajAtK(Metric):
    """maj@k: the share of problems whose most frequent answer among k samples is right.

    Samples without an answer do not vote. Of equally frequent answers each counts its share, which is the mean over
    the ways to break the tie. A problem nobody answered is wrong; one whose winning answer has an unknown outcome is
    left out.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    total: torch.Tensor
    problems: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("problems", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Sequence[Sequence[str | None]], outcomes: Sequence[Sequence[float | None]]) -> None:
        """Add problems.

        Args:
            answers: per problem the key of every sample's answer; None where a sample gives none.
            outcomes: the same shape; 1.0 right, 0.0 wrong, None unknown.
        """
        for keys, known in zip(answers, outcomes, strict=True):
            score = _majority_score(keys, known)
            if score is not None:
                self.total += score
                self.problems += 1

    def compute(self) -> torch.Tensor:
        """The mean over scored problems; NaN if there are none."""
        return (self.total / self.problems).float()


def _majority_score(keys: Sequence[str | None], outcomes: Sequence[float | None]) -> float | None:
    """Share of the most frequent answers that are right; None if the outcome of one of them is unknown."""
    counts = Counter(key for key in keys if key is not None)
    if not counts:
        return 0.0
    most = max(counts.values())
    by_answer: dict[str, list[float]] = {key: [] for key, count in counts.items() if count == most}
    for key, outcome in zip(keys, outcomes, strict=True):
        if key in by_answer and outcome is not None:
            by_answer[key].append(outcome)
    if not all(by_answer.values()):
        return None
    return sum(sum(found) / len(found) for found in by_answer.values()) / len(by_answer)
