"""Token rewards and advantages: golden cases worked by hand, and what a row without signal may not do."""

from typing import get_args

import jaxtyping
import pytest
import torch

from capo_lit.core.credit import ESTIMATORS, Estimator, advantages, token_rewards
from tests.support.ragged import NAN, advantages_of, ragged

TOLERANCE = 1e-5


def test_the_estimators_are_the_literals():
    assert set(ESTIMATORS) == set(get_args(Estimator))


def test_shapes_are_checked_at_run_time():
    with pytest.raises(jaxtyping.TypeCheckError):
        token_rewards(torch.zeros(3), torch.zeros(2, 5), 2.0, 1.0)


def test_token_rewards_are_the_asymmetric_table():
    # right: 2 clean, 1 wrong step; wrong: 0 clean, -1 wrong step; two of three votes: 2 - 2/3
    rewards = token_rewards(torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 1.0, 2 / 3], [0.0, 1.0, 0.0]]), 2.0, 1.0)
    torch.testing.assert_close(rewards, torch.tensor([[2.0, 1.0, 4 / 3], [0.0, -1.0, 0.0]]))


def test_an_unknown_outcome_stays_in_its_row():
    rewards = token_rewards(torch.tensor([1.0, NAN]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), 2.0, 1.0)
    assert rewards[0].tolist() == [2.0, 1.0]
    assert rewards[1].isnan().all()


# r = (2, 0, 2, 0), lengths (3, 9, 2, 6).
UNEQUAL = [[2.0] * 3, [0.0] * 9, [2.0] * 2, [0.0] * 6]


def test_sequence_on_unequal_lengths():
    # mean 1, std = sqrt(4 * 1 / 3) = 1.154701, A = +-1 / (1.154701 + 1e-4) = +-0.865951
    result = advantages_of(UNEQUAL, estimator="sequence")
    for row, expected, length in zip(result, (0.865951, -0.865951) * 2, (3, 9, 2, 6), strict=True):
        assert row[:length].tolist() == pytest.approx([expected] * length, abs=TOLERANCE)
        assert row[length:].eq(0).all()


def test_pooled_on_unequal_lengths_is_not_grpo():
    # 20 tokens, 5 of them 2: mean 0.5, sum of squares 5 * 2.25 + 15 * 0.25 = 15, ddof 1: std = sqrt(15/19) = 0.888523
    # A = 1.5 / 0.888523 = 1.688194 and -0.5 / 0.888523 = -0.562731
    result = advantages_of(UNEQUAL)
    assert result[0, :3].tolist() == pytest.approx([1.688192] * 3, abs=TOLERANCE)
    assert result[1].tolist() == pytest.approx([-0.562731] * 9, abs=TOLERANCE)
    assert result[2].tolist() == pytest.approx([1.688192] * 2 + [0.0] * 7, abs=TOLERANCE)


def test_pooled_eps_by_hand():
    # tokens 0, 0, 2e-4, 2e-4: mean 1e-4, std = sqrt(4e-8 / 3) = 1.154701e-4, A = 1e-4 / (1.154701e-4 + 1e-6) = 0.858587
    assert advantages_of([[0.0, 0.0], [2e-4, 2e-4]])[1].tolist() == pytest.approx([0.858588] * 2, abs=TOLERANCE)
    # rows 0, 2e-4: std = 1.414214e-4, A = 1e-4 / (1.414214e-4 + 1e-4) = 0.414214
    rows = advantages_of([[0.0], [2e-4, 2e-4]], estimator="sequence")
    assert rows[1].tolist() == pytest.approx([0.414214] * 2, abs=TOLERANCE)
    # a given eps replaces it: 1 / (1.414214 + 0.5) for rows 0, 2
    assert advantages_of([[0.0], [2.0]], eps=0.5)[1].tolist() == pytest.approx([0.522408], abs=TOLERANCE)


def test_seven_thousand_equal_fractions_give_exactly_zero():
    # In float32 the std of 7001 times 5/3 is 4.8e-7, and A would be 0.3.
    rows = [[5 / 3] * 7000, [5 / 3]]
    assert advantages_of(rows).eq(0).all()
    assert advantages_of(rows, estimator="sequence").eq(0).all()
    values, mask = ragged(rows)
    zero = torch.zeros(2, dtype=torch.long)
    assert advantages(values, mask, zero, "decoupled", process=values - 2).eq(0).all()
    assert advantages(values.double(), mask, zero, "sequence").eq(0).all()


def test_a_half_right_group_with_one_percent_flagged():
    # 198 x 2, 2 x 1, 198 x 0, 2 x -1: mean (396 + 2 - 2) / 400 = 0.99
    # squares 198 * 1.01^2 + 2 * 0.01^2 + 198 * 0.99^2 + 2 * 1.99^2 = 403.96, std = sqrt(403.96 / 399) = 1.006196
    # A = 1.01, 0.01, -0.99, -1.99 over the std: a wrong step in a right answer is nearly neutral
    result = advantages_of([[2.0] * 198 + [1.0] * 2, [0.0] * 198 + [-1.0] * 2])
    expected = [1.003780, 0.009938, -0.983903, -1.977746]
    assert result[:, [0, 199]].flatten().tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_an_all_right_group_punishes_its_rare_flag_finitely():
    # 1 flag in 1000: mean 1.999, std = sqrt((999 * 0.001^2 + 0.999^2) / 999) = 0.0316228, A = -0.999 / 0.0316238
    rows = [[2.0] * 500, [1.0] + [2.0] * 499]
    assert advantages_of(rows)[1, 0].item() == pytest.approx(-31.590098, abs=1e-3)
    # floored at 0.5: -0.999 / 0.500001
    assert advantages_of(rows, std_floor=0.5)[1, 0].item() == pytest.approx(-1.997996, abs=TOLERANCE)
    capped = advantages_of(rows, max_abs_advantage=5.0)
    assert capped[1, 0].item() == -5.0
    assert capped[0, 0].item() == pytest.approx(0.031622, abs=TOLERANCE)


def test_decoupled_by_hand():
    # Outcome rows 2 and 0: A = +-1 / (1.414214 + 1e-4) = +-0.707057. Process tokens -1, 0, 0, 0: mean -0.25,
    # std = sqrt((0.5625 + 3 * 0.0625) / 3) = 0.5: -0.75 / 0.500001 = -1.499997 and 0.25 / 0.500001 = 0.5.
    process = torch.tensor([[-1.0, 0.0], [0.0, 0.0]])
    rewards = torch.tensor([[2.0, 2.0], [0.0, 0.0]]) + process
    mask, group = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    result = advantages(rewards, mask, group, "decoupled", process=process)
    expected = [0.707057 - 1.499997, 0.707057 + 0.5, -0.707057 + 0.5, -0.707057 + 0.5]
    assert result.flatten().tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_decoupled_needs_the_process_term():
    with pytest.raises(ValueError, match="no process term"):
        advantages_of([[1.0], [2.0]], estimator="decoupled")


@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="expected one of token_pooled, sequence, decoupled"):
        advantages_of([[1.0]], estimator="grpo")
    for name in ("eps", "std_floor", "max_abs_advantage"):
        with pytest.raises(ValueError, match=f"got {name} -1"):
            advantages_of([[1.0]], **{name: -1.0})


def test_decoupled_outcomes_are_equal_but_for_rounding():
    # All right; float32 2 - 1/3 and -1/3 are rounded apart, so that their difference is not quite 2. The outcome term
    # must be 0, and the rest is the process term alone.
    process = torch.tensor([[-1 / 3, -2 / 3], [0.0, 0.0]])
    mask, group = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.long)
    assert (2 + process).double().sub(process.double()).sub(2).abs().max() > 0
    result = advantages(2 + process, mask, group, "decoupled", process=process)
    assert result.equal(advantages(process, mask, group))


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_rows_that_say_nothing_leave_the_statistics(estimator):
    # Row 2 is masked throughout, row 3's outcome is unknown: rows 0 and 1 are as if alone.
    rewards = torch.tensor([[2.0, 1.0], [0.0, 0.0], [99.0, NAN], [NAN, NAN]])
    mask = torch.tensor([[True, True], [True, True], [False, False], [True, True]])
    group = torch.zeros(4, dtype=torch.long)
    process = torch.tensor([[0.0, -1.0], [0.0, 0.0], [0.0, 0.0], [0.0, -1.0]])
    both = advantages(rewards, mask, group, estimator, process=process)
    alone = advantages(rewards[:2], mask[:2], group[:2], estimator, process=process[:2])
    assert both[:2].equal(alone)
    assert alone.abs().min() > 0.1
    assert both[2:].eq(0).all()


@pytest.mark.parametrize("estimator", get_args(Estimator))
def test_degenerate_groups_get_zero(estimator):
    def run(rewards, mask):
        group = torch.zeros(rewards.shape[0], dtype=torch.long)
        return advantages(rewards, mask, group, estimator, process=torch.zeros_like(rewards), eps=0.0)

    for shape in [(0, 3), (2, 0), (1, 3), (2, 3)]:
        constant = run(torch.full(shape, 5 / 3), torch.ones(shape, dtype=torch.bool))
        assert constant.shape == shape
        assert constant.eq(0).all()
        assert run(torch.full(shape, NAN), torch.zeros(shape, dtype=torch.bool)).eq(0).all()


def test_a_single_row_has_signal_only_in_its_tokens():
    # one row 2, 1: mean 1.5, std = sqrt(0.5) = 0.707107, A = +-0.5 / 0.707108
    assert advantages_of([[2.0, 1.0]])[0].tolist() == pytest.approx([0.707106, -0.707106], abs=TOLERANCE)
    assert advantages_of([[2.0, 1.0]], estimator="sequence").eq(0).all()


def test_an_all_right_group_has_signal_in_its_wrong_step():
    rows = [[2.0, 2.0, 1.0], [2.0, 2.0]]
    result = advantages_of(rows)
    assert result[0, 2] < -1 < 0 < result[0, 0]
    # outcomes alone would throw the group away
    assert advantages_of([[2.0] * 3, [2.0] * 2]).eq(0).all()
