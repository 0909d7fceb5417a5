"""Intervals of differences, worked by hand."""

import pytest

from capo_lit.records.report.stats import difference, spread


def test_paired_and_welch_intervals():
    ours, theirs = [(1, 0.5), (2, 0.6), (3, 0.7)], [(1, 0.4), (2, 0.45), (3, 0.5)]
    # gaps 0.1, 0.15, 0.2: 0.15 +- 4.30265 * 0.05 / sqrt(3)
    gap = difference(ours, theirs)
    assert (gap.mean, gap.low, gap.high) == pytest.approx((0.15, 0.15 - 0.124207, 0.15 + 0.124207), abs=1e-6)
    assert gap.how == "paired, 3 seeds"
    # v = 0.01 / 3 + 0.0025 / 3 = 1 / 240; df = v^2 / ((0.01 / 3)^2 / 2 + (0.0025 / 3)^2 / 2) = 2.941176; t = 3.218759
    gap = difference(ours, [(seed + 1, value) for seed, value in theirs])
    assert gap.high - gap.mean == pytest.approx(3.218759 / 240**0.5, abs=1e-6)
    assert gap.how == "Welch, 3 and 3 runs"


@pytest.mark.filterwarnings("ignore:Precision loss occurred")  # of runs that are equal
def test_intervals_need_two_runs_on_each_side():
    assert difference([(0, 0.5)], [(0, 0.4)]).low is None
    assert difference([(0, 0.5)], [(1, 0.4), (2, 0.4)]).low is None
    # runs of one seed are no pairs
    assert difference([(0, 0.5), (0, 0.7)], [(0, 0.4), (0, 0.4)]).how == "Welch, 2 and 2 runs"
    flat = difference([(0, 0.5), (1, 0.5)], [(2, 0.4), (3, 0.4)])
    assert (flat.low, flat.high) == pytest.approx((0.1, 0.1))


# Two-sided 95 % points of Student's distribution, from any table; 1.96 is the normal's.
@pytest.mark.parametrize(("n", "t"), [(2, 12.7062), (3, 4.30265), (5, 2.77645), (10, 2.26216), (31, 2.04227)])
def test_the_interval_is_students(n, t):
    values = [(seed, float(seed % 2)) for seed in range(n)]
    gap = difference(values, [(seed, 0.0) for seed in range(n)])
    sd = spread([value for _, value in values]).sd
    assert gap.high - gap.mean == pytest.approx(t * sd / n**0.5, rel=1e-5)
