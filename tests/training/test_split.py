"""The model of a step's time, on logs whose times are made of known parts."""

from pathlib import Path

import pytest

from capo_lit.core.errors import DataError
from capo_lit.training.split import Rates, Split, measured_rates, splits, step_seconds

RATES = Rates(processes=1, rollouts=64, decode=2.0, sample=8.0, judge=4.0, update=16.0, push=1.0, other=0.5)


def logged(steps: int = 8, **changes) -> dict[str, dict[int, float]]:
    """.02 s a position, .001 s a token; the first two steps ten times as slow."""
    longest = [100 + 30 * (step % 3) for step in range(steps)]
    tokens = [2000 + 500 * (step % 2) for step in range(steps)]
    columns = {
        "rollout/tokens": tokens,
        "rollout/length_max": longest,
        "time/rollout_s": [0.02 * a + 0.001 * b for a, b in zip(longest, tokens, strict=True)],
        "time/critique_s": [4.0] * steps,
        "time/update_s": [16.0] * steps,
        "time/sync_s": [1.0] * steps,
    } | changes
    spent = [columns[f"time/{name}_s"] for name in ("rollout", "critique", "update", "sync")]
    columns["time/step_s"] = [0.5 + sum(parts) for parts in zip(*spent, strict=True)]
    for name in ("time/rollout_s", "time/update_s", "time/step_s"):
        columns[name] = [value * (10 if step < 2 else 1) for step, value in enumerate(columns[name])]
    return {name: dict(enumerate(values, 1)) for name, values in columns.items()}


def test_the_parts_of_a_log_are_found():
    rates = measured_rates(logged(), 2, 64, True, Path("run"))
    assert rates.processes == 2
    assert (rates.decode, rates.sample) == (pytest.approx(0.02 * 130), pytest.approx(0.001 * 2250))
    assert (rates.judge, rates.update, rates.push) == (4.0, 16.0, 1.0)
    assert rates.other == pytest.approx(0.5, abs=0.4)  # a median of sums is no sum of medians


def test_positions_are_never_of_negative_cost():
    flat = [0.001 * tokens for tokens in (2000, 2500) * 4]
    falling = [6 - 0.01 * longest for longest in (100, 130, 160, 100, 130, 160, 100, 130)]
    rates = measured_rates(logged(**{"time/rollout_s": falling}), 1, 64, True, Path())
    assert min(rates.decode, rates.sample) >= 0
    assert measured_rates(logged(**{"time/rollout_s": flat}), 1, 64, True, Path()).decode == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("gpu", "decode", "sample"), [(True, 3.0, 0.0), (False, 0.0, 3.0)])
def test_responses_of_one_length_are_paid_by_position_on_a_gpu_and_by_token_on_a_cpu(gpu, decode, sample):
    curves = logged(**{"rollout/length_max": [64] * 8, "rollout/tokens": [4096] * 8, "time/rollout_s": [3.0] * 8})
    rates = measured_rates(curves, 1, 64, gpu, Path())
    assert (rates.decode, rates.sample) == (pytest.approx(decode), pytest.approx(sample))


@pytest.mark.parametrize(
    ("steps", "gone", "message"), [(4, "", "4 steps or fewer"), (8, "time/update_s", "no time/update_s")]
)
def test_a_log_that_says_too_little_is_refused(steps, gone, message):
    curves = logged(steps)
    curves.pop(gone, None)
    with pytest.raises(DataError, match=message):
        measured_rates(curves, 1, 64, True, Path("run"))


def test_on_one_gpu_a_step_is_the_sum_of_its_parts():
    assert step_seconds(RATES, Split(1), 64, judge_beside=False) == 2 + 8 + 4 + 16 + 1 + 0.5


def test_more_gpus_divide_all_but_decoding_pushing_and_the_rest():
    assert step_seconds(RATES, Split(4), 64, judge_beside=False) == 2 + (8 + 4 + 16) / 4 + 1 + 0.5
    assert step_seconds(RATES, Split(4), 64, judge_beside=True) == 2 + (8 + 16) / 4 + 4 + 1 + 0.5


def test_ahead_hides_the_shorter_of_the_two():
    in_turn, ahead = (step_seconds(RATES, Split(1, 1, ahead), 64, judge_beside=True) for ahead in (False, True))
    assert in_turn == 31.5
    assert ahead == 1 + max(2 + 8 + 4, 16 + 0.5)


def test_twice_the_rollouts_take_twice_the_time_but_for_decoding():
    assert step_seconds(RATES, Split(1), 128, judge_beside=True) == 2 + 1 + 2 * (8 + 4 + 16 + 0.5)


def test_every_way_to_share_out_three_gpus():
    assert list(splits(3)) == [Split(3), Split(2, 1), Split(2, 1, True), Split(1, 2), Split(1, 2, True)]
