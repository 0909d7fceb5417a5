"""PPO-clip loss: the literal reference, and loss AND gradient under every regrouping of the rows."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.core.loss import Aggregation, loss_normalizer, policy_loss
from tests import reference

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
    loss, stats = policy_loss(**{**case, "logprobs": leaf}, **FULL, **settings)
    loss.backward()
    return loss.detach(), leaf.grad, stats


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
    loss, grad, stats = loss_and_grad(case, aggregation=how)
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
    total = parts[0][2]
    for part in parts[1:]:
        total = total + part[2]
    for name in ("tokens", "clip_low", "clip_high", "dual_clip", "importance_capped"):
        assert getattr(total, name) == getattr(stats, name)
    for name in ("ratio_mean", "approx_kl", "kl_ref", "importance_mean"):
        assert getattr(total, name) == pytest.approx(getattr(stats, name), rel=TOLERANCE, abs=TOLERANCE)


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
    loss, grad, stats = loss_and_grad(
        {k: v if k == "mask" else v.nan_to_num(0.0) for k, v in case.items()}, aggregation=how
    )
    padded = {
        k: torch.nn.functional.pad(v, (0, extra))
        if k == "mask"
        else torch.nn.functional.pad(v.masked_fill(~case["mask"], fill), (0, extra), value=fill)
        for k, v in case.items()
    }
    other_loss, other_grad, other_stats = loss_and_grad(padded, aggregation=how)
    close(other_loss, loss)
    close(other_grad[:, : grad.shape[1]], grad)
    assert other_grad[~padded["mask"]].eq(0).all()
    for name in ("ratio_mean", "approx_kl", "kl_ref", "importance_mean", "importance_capped_frac", "clip_low_frac"):
        assert getattr(other_stats, name) == pytest.approx(getattr(stats, name), rel=TOLERANCE, abs=TOLERANCE)


@given(CASES)
def test_at_ratio_one_the_loss_is_minus_the_mean_advantage(case):
    new = case["logprobs"].requires_grad_()
    loss, stats = policy_loss(new, new.detach(), case["advantages"], case["mask"])
    loss.backward()
    close(loss.detach(), -case["advantages"][case["mask"]].mean())
    close(new.grad[case["mask"]], -case["advantages"][case["mask"]] / case["mask"].sum())
    assert (stats.approx_kl, stats.clip_low_frac, stats.clip_high_frac) == (0.0, 0.0, 0.0)
