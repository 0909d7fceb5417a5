"""PPO-clip loss: the literal reference, and loss AND gradient under every regrouping of the rows."""

import math
from functools import reduce
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.loss import Aggregation, add_sums, loss_means, loss_normalizer, policy_loss
from tests.support import reference

NAN = float("nan")
TOLERANCE = 1e-5
ALL = get_args(Aggregation)


def make_case(lengths, seed):
    """Ragged tensors far outside the clip on both sides, with NaN in the padding."""
    rng = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths))
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    names = ("logprobs", "old_logprobs", "advantages", "ref_logprobs", "engine_logprobs")
    return {name: torch.randn(shape, generator=rng).masked_fill(~mask, NAN) for name in names} | {"mask": mask}


FULL = {"dual_clip": 3.0, "kl_coef": 0.1, "importance_cap": 2.0, "max_length": 9}
CASES = st.builds(make_case, st.lists(st.integers(0, 7), min_size=2, max_size=6).filter(any), st.integers(0, 99))


def loss_and_grad(case, **settings):
    """Loss, gradient and statistics of a case under every feature at once."""
    leaf = case["logprobs"].clone().requires_grad_()
    loss, sums = policy_loss(**{**case, "logprobs": leaf}, **FULL, **settings)
    loss.backward()
    return loss.detach(), leaf.grad, sums


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)


@given(CASES, st.sampled_from(["token", "sequence"]))
def test_the_loss_is_the_literal_equation(case, how):
    rows = {
        name: [row[valid].tolist() for row, valid in zip(case[name], case["mask"], strict=True)]
        for name in ("logprobs", "old_logprobs", "advantages")
    }
    expected = reference.policy_loss(*rows.values(), 0.1, 0.3, how)
    names = ("logprobs", "old_logprobs", "advantages", "mask")
    loss, _ = policy_loss(*(case[name] for name in names), clip_low=0.1, clip_high=0.3, aggregation=how)
    assert loss.item() == pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE)


@given(CASES, st.sampled_from(ALL), st.integers(1, 3))
def test_micro_batches_add_up_to_the_whole(case, how, size):
    loss, grad, sums = loss_and_grad(case, aggregation=how)
    masks = case["mask"].split(size)
    normalizer = sum(loss_normalizer(mask, how, 9) for mask in masks)
    assert normalizer == loss_normalizer(case["mask"], how, 9)
    parts = []
    for number in range(len(masks)):
        part = {name: value.split(size)[number] for name, value in case.items()}
        width = int(part["mask"].sum(1).max())  # each part is padded to its own longest row
        parts.append(loss_and_grad({k: v[:, :width] for k, v in part.items()}, aggregation=how, normalizer=normalizer))
    close(torch.stack([part[0] for part in parts]).sum(), loss)
    wide = [torch.nn.functional.pad(part[1], (0, grad.shape[1] - part[1].shape[1])) for part in parts]
    close(torch.cat(wide), grad)
    total = reduce(add_sums, [part[2] for part in parts], {})
    for name in ("tokens", "clip_low_frac", "clip_high_frac", "dual_clip_frac", "importance_capped_frac"):
        assert total[name] == sums[name]
    assert loss_means(total) == pytest.approx(loss_means(sums), rel=TOLERANCE, abs=TOLERANCE)


def test_averaging_the_micro_batches_own_means_is_wrong():
    case = make_case([7, 1], seed=0)
    parts = [loss_and_grad({k: v[i : i + 1] for k, v in case.items()})[0] for i in range(2)]
    assert abs(sum(parts) / 2 - loss_and_grad(case)[0]) > 0.01


@given(CASES, st.sampled_from(ALL), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(case, how, random):
    order = random.sample(range(len(case["mask"])), len(case["mask"]))
    loss, grad, _ = loss_and_grad(case, aggregation=how)
    moved_loss, moved_grad, _ = loss_and_grad({k: v[order] for k, v in case.items()}, aggregation=how)
    close(moved_loss, loss)
    close(moved_grad, grad[order])


@given(CASES, st.sampled_from(ALL), st.sampled_from([0.0, NAN, math.inf, -math.inf]), st.integers(0, 3))
def test_padding_reaches_neither_loss_nor_gradient_nor_statistics(case, how, fill, extra):
    loss, grad, sums = loss_and_grad(
        {k: v if k == "mask" else v.nan_to_num(0.0) for k, v in case.items()}, aggregation=how
    )
    padded = {
        k: torch.nn.functional.pad(v, (0, extra))
        if k == "mask"
        else torch.nn.functional.pad(v.masked_fill(~case["mask"], fill), (0, extra), value=fill)
        for k, v in case.items()
    }
    other_loss, other_grad, other_sums = loss_and_grad(padded, aggregation=how)
    close(other_loss, loss)
    close(other_grad[:, : grad.shape[1]], grad)
    assert other_grad[~padded["mask"]].eq(0).all()
    assert loss_means(other_sums) == pytest.approx(loss_means(sums), rel=TOLERANCE, abs=TOLERANCE)


@given(CASES)
def test_at_ratio_one_the_loss_is_minus_the_mean_advantage(case):
    new = case["logprobs"].requires_grad_()
    loss, sums = policy_loss(new, new.detach(), case["advantages"], case["mask"])
    loss.backward()
    close(loss.detach(), -case["advantages"][case["mask"]].mean())
    close(new.grad[case["mask"]], -case["advantages"][case["mask"]] / case["mask"].sum())
    means = loss_means(sums)
    assert (means["approx_kl"], means["clip_low_frac"], means["clip_high_frac"]) == (0.0, 0.0, 0.0)
