"""Means, spreads and confidence intervals over seeds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation (ddof 1, None for one value) and number of values."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """A difference of two means, with its interval.

    Attributes:
        mean: of the first minus of the second.
        low: lower end of the interval, None if there are too few values for one.
        high: upper end.
        how: paired, Welch, or why there is no interval.
    """

    mean: float
    low: float | None
    high: float | None
    how: str


Sample = tuple[int | None, float]  # (seed, value)


def spread(values: Sequence[float]) -> Spread:
    """Mean and spread of at least one value."""
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def difference(ours: Sequence[Sample], theirs: Sequence[Sample], level: float = 0.95) -> Difference:
    """Mean difference and Student's interval: paired where both have the same seeds, Welch's otherwise.

    paired: d +- t(n - 1) sd(d) / sqrt(n), d over seeds; Welch: with v = sd^2 / n of each side,
    m1 - m2 +- t(df) sqrt(v1 + v2), df = (v1 + v2)^2 / (v1^2 / (n1 - 1) + v2^2 / (n2 - 1)).

    Args:
        ours: (seed, value), at least one.
        theirs: the same of the other side.
        level: of confidence, in (0, 1).
    """
    from scipy.stats import ttest_ind, ttest_rel

    one, two = [value for _, value in ours], [value for _, value in theirs]
    mean = statistics.fmean(one) - statistics.fmean(two)
    by_seed, other = dict(ours), dict(theirs)
    if None not in by_seed and by_seed.keys() == other.keys() and len(by_seed) == len(one) == len(two):
        if len(by_seed) < 2:
            return Difference(mean, None, None, "one seed: no interval")
        test = ttest_rel(list(by_seed.values()), [other[seed] for seed in by_seed])
        how = f"paired, {len(by_seed)} seeds"
    elif len(one) < 2 or len(two) < 2:
        return Difference(mean, None, None, "one run on a side: no interval")
    else:
        test = ttest_ind(one, two, equal_var=False)
        how = f"Welch, {len(one)} and {len(two)} runs"
    ends = test.confidence_interval(level)
    # Without any spread scipy's interval is undefined; here it is the mean itself.
    low, high = (mean if math.isnan(end) else float(end) for end in ends)
    return Difference(mean, low, high, how)
