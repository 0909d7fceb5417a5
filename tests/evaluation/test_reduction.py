"""The one exchange of a step's metrics: what several processes know becomes what one with all of it would log."""

import math

import pytest
import torch

from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.names import METRICS, STEP_SPECS
from capo_lit.evaluation.reduction import Mean, Parts, check_parts, pack, reduced, unpack


def together(*ranks: Parts) -> dict[str, float]:
    return unpack(torch.stack([pack(parts) for parts in ranks]))


def test_a_sum_is_added_up_a_maximum_is_the_largest_and_a_mean_divides_once() -> None:
    one: Parts = {"rollout/tokens": 10.0, "rollout/length_max": 7.0, "rollout/length_mean": Mean(10, 2)}
    two: Parts = {"rollout/tokens": 5.0, "rollout/length_max": 5.0, "rollout/length_mean": Mean(5, 1)}
    assert together(one, two) == {"rollout/tokens": 15.0, "rollout/length_max": 7.0, "rollout/length_mean": 5.0}


def test_a_process_without_a_value_changes_none_whatever_its_sign() -> None:
    one: Parts = {"rollout/tokens": 10.0, "reward/adv_abs_max": -3.0, "reward/token_mean": Mean(-4.0, 2)}
    assert together(one, {}) == together({}, one) == reduced(one)
    assert together(one, {"reward/token_mean": Mean(0.0, 0)})["reward/token_mean"] == -2.0


def test_what_nobody_counted_has_no_value_and_is_not_zero() -> None:
    assert together({"reward/outcome_mean": Mean(0, 0)}, {}) == {}
    assert together({"rollout/tokens": 0.0}, {}) == {"rollout/tokens": 0.0}


def test_a_number_of_each_process_is_averaged() -> None:
    assert together({"policy/lr": Mean(0.25)}, {"policy/lr": Mean(0.75)}) == {"policy/lr": 0.5}


def test_what_is_no_number_anywhere_shows_and_spoils_no_other_metric() -> None:
    nan = math.nan
    values = together(
        {"policy/loss": Mean(nan), "reward/adv_abs_max": nan, "rollout/tokens": 1.0}, {"policy/loss": Mean(1)}
    )
    assert math.isnan(values["policy/loss"])
    assert math.isnan(values["reward/adv_abs_max"])
    assert values["rollout/tokens"] == 1.0


def test_every_process_sends_the_same_shape_whatever_it_has_measured() -> None:
    assert pack({}).shape == pack({"policy/lr": Mean(1.0)}).shape == (2, len(STEP_SPECS))
    assert all(metric.name in METRICS for metric in STEP_SPECS)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"rollout/length_mean": 3.0}, r"3\.0 for rollout/length_mean.*a Mean \(numerator, denominator\)"),
        ({"rollout/tokens": Mean(3, 1)}, "for rollout/tokens.*a number, of which the sum is taken"),
        ({"rollout/tokenz": 3.0}, "nearest: rollout/tokens"),
    ],
)
def test_a_value_of_another_kind_or_an_unknown_name_is_refused(parts: Parts, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_parts(parts)
