"""Advantages: the literal reference, and properties that every group of rollouts must keep."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.credit import Estimator, advantages, token_rewards
from tests.support import reference
from tests.support.ragged import NAN, advantages_of, ragged

TOLERANCE = 1e-5


ROWS = st.lists(st.lists(st.sampled_from([2.0, 1.0, 0.0, -1.0, 5 / 3]), min_size=1, max_size=6), min_size=1, max_size=6)
GROUPED = ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.lists(st.integers(3, 5), min_size=6, max_size=6)))


@given(GROUPED)
def test_pooled_is_the_literal_equation(case):
    rows, groups = case[0], case[1][: len(case[0])]
    exact = [[float(torch.tensor(x)) for x in row] for row in rows]
    result = advantages_of(rows, groups)
    for row, expected in zip(result, reference.pooled_advantages(exact, groups), strict=True):
        assert row[: len(expected)].tolist() == pytest.approx(expected, abs=TOLERANCE)


@given(GROUPED)
def test_sequence_without_process_is_the_grpo_formula(case):
    rows, groups = case[0], case[1][: len(case[0])]
    outcome = torch.tensor([float(row[0] > 1) for row in rows])
    values, mask = ragged(rows)
    rewards = token_rewards(outcome, torch.ones_like(values), 2.0, 0.0)
    result = advantages(rewards, mask, torch.tensor(groups), "sequence")
    expected = reference.sequence_advantages((2 * outcome).tolist(), groups)
    for row, valid, value in zip(result, mask, expected, strict=True):
        assert row[valid].tolist() == pytest.approx([value] * int(valid.sum()), abs=TOLERANCE)


def both_terms(rows):
    values, mask = ragged(rows)
    return values, mask, (values - 2).clamp(max=0)


@given(GROUPED, st.permutations(range(6)), st.sampled_from(get_args(Estimator)))
def test_permuting_rows_permutes_advantages(case, order, estimator):
    rows, order = case[0], [i for i in order if i < len(case[0])]
    values, mask, process = both_terms(rows)
    group = torch.tensor(case[1][: len(rows)])
    whole = advantages(values, mask, group, estimator, process=process)
    moved = advantages(values[order], mask[order], group[order], estimator, process=process[order])
    torch.testing.assert_close(moved, whole[order], rtol=0, atol=TOLERANCE)


@given(ROWS, st.sampled_from([-3.0, 0.5, 1000.0]), st.sampled_from(get_args(Estimator)))
def test_a_constant_on_all_rewards_changes_nothing(rows, shift, estimator):
    values, mask, process = both_terms([[round(x) * 1.0 for x in row] for row in rows])
    group = torch.zeros(len(rows), dtype=torch.long)
    plain = advantages(values, mask, group, estimator, process=process)
    shifted = advantages(values + shift, mask, group, estimator, process=process)
    torch.testing.assert_close(shifted, plain, rtol=0, atol=TOLERANCE)


@given(GROUPED, st.integers(1, 4), st.sampled_from([0.0, 1e30, NAN, math.inf]), st.sampled_from(get_args(Estimator)))
def test_padding_moves_no_valid_token(case, extra, fill, estimator):
    rows, group = case[0], torch.tensor(case[1][: len(case[0])])
    values, mask, process = both_terms(rows)
    wide = torch.nn.functional.pad(values.masked_fill(~mask, fill), (0, extra), value=fill)
    wide_process = torch.nn.functional.pad(process.masked_fill(~mask, fill), (0, extra), value=fill)
    wide_mask = torch.nn.functional.pad(mask, (0, extra))
    plain = advantages(values, mask, group, estimator, process=process)
    padded = advantages(wide, wide_mask, group, estimator, process=wide_process)
    assert padded[:, : values.shape[1]].equal(plain)
    assert padded[:, values.shape[1] :].eq(0).all()


@given(GROUPED, st.sampled_from(get_args(Estimator)))
def test_groups_do_not_see_each_other(case, estimator):
    rows, group = case[0], torch.tensor(case[1][: len(case[0])])
    values, mask, process = both_terms(rows)
    whole = advantages(values, mask, group, estimator, process=process)
    for label in group.unique():
        own = group == label
        alone = advantages(values[own], mask[own], group[own], estimator, process=process[own])
        torch.testing.assert_close(whole[own], alone, rtol=0, atol=TOLERANCE)


@given(GROUPED)
def test_pooled_advantages_of_a_group_sum_to_zero(case):
    rows, groups = case[0], case[1][: len(case[0])]
    result = advantages_of(rows, groups)
    for label in set(groups):
        own = [i for i, other in enumerate(groups) if other == label]
        assert float(result[own].sum()) == pytest.approx(0, abs=1e-4)
