"""PPO-clip loss, its gradient and its statistics: golden cases worked by hand."""

import math
from typing import get_args

import pytest
import torch

from capo_lit.core.credit import advantages, token_rewards
from capo_lit.core.loss import NORMALIZERS, NUMERATORS, Aggregation, loss_means, loss_normalizer, policy_loss

NAN = float("nan")
TOLERANCE = 1e-5
ALL = get_args(Aggregation)


def run(ratios, adv, mask=None, **settings):
    """Loss, its gradient with respect to the logprobs, and the statistics, for given ratios rho = exp(lp - old)."""
    new = torch.tensor(ratios).log().requires_grad_()
    mask = torch.ones_like(new, dtype=torch.bool) if mask is None else mask
    loss, sums = policy_loss(new, torch.zeros_like(new), torch.tensor(adv), mask, **settings)
    loss.backward()
    return loss.item(), new.grad, loss_means(sums)


def test_the_aggregations_are_the_literals():
    assert set(NUMERATORS) == set(NORMALIZERS) == set(ALL)


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "grad"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.1, 2.0, -2.2, -2.2),  # d(-rho A)/d lp = -rho A
        (1.5, 2.0, -2.4, 0.0),  # clipped at 1.2
        (0.5, 2.0, -1.0, -1.0),  # a clip may not help a good token that fell
        (0.5, -2.0, 1.6, 0.0),  # clipped at 0.8
        (1.5, -2.0, 3.0, 3.0),  # nor a bad one that rose
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_clip_by_hand(ratio, adv, loss, grad):
    got, gradient, _ = run([[ratio]], [[adv]])
    assert got == pytest.approx(loss, abs=TOLERANCE)
    assert gradient.item() == pytest.approx(grad, abs=TOLERANCE)


def test_the_two_sides_of_the_clip_are_apart():
    # rho 1.5, A 1 clips at 1.3; rho 0.5, A -1 clips at 0.9: (-1.3 + 0.9) / 2
    assert run([[1.5, 0.5]], [[1.0, -1.0]], clip_low=0.1, clip_high=0.3)[0] == pytest.approx(-0.2, abs=TOLERANCE)


def test_the_dual_clip_bounds_bad_tokens_only():
    # rho 5, A -2: 10 without, -3 * -2 = 6 with c = 3 and no gradient; rho 2, A -2 stays 4; A 2 stays -2.4
    assert run([[5.0]], [[-2.0]])[0] == pytest.approx(10.0, abs=1e-4)
    loss, grad, means = run([[5.0, 2.0, 5.0]], [[-2.0, -2.0, 2.0]], dual_clip=3.0)
    assert loss == pytest.approx((6 + 4 - 2.4) / 3, abs=TOLERANCE)
    assert grad.tolist()[0] == pytest.approx([0.0, 4 / 3, 0.0], abs=TOLERANCE)
    assert means["dual_clip_frac"] == pytest.approx(1 / 3)


def test_the_aggregations_by_hand():
    # losses -1, -2, -3 in row 0, -6 in row 1, none in row 2
    adv, mask = [[1.0, 2.0, 3.0], [6.0, 9.0, 9.0], [9.0] * 3], torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    ones = [[1.0] * 3] * 3
    assert run(ones, adv, mask)[0] == pytest.approx(-12 / 4)
    assert run(ones, adv, mask, aggregation="sequence")[0] == pytest.approx((-2 - 6) / 2)  # row 2 does not count
    assert run(ones, adv, mask, aggregation="dr_grpo", max_length=5)[0] == pytest.approx(-12 / (3 * 5))
    assert [loss_normalizer(mask, how, 5) for how in ALL] == [4.0, 2.0, 15.0]
    assert run(ones, adv, mask, normalizer=8.0)[0] == pytest.approx(-12 / 8)


def test_the_reference_kl_by_hand():
    # ref - lp = log 2: 2 - log 2 - 1 = 0.306853; d k3/d lp = 1 - exp(ref - lp) = -1
    new, mask = torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1, dtype=torch.bool)
    ref = torch.full((1, 1), math.log(2))
    loss, sums = policy_loss(new, torch.zeros(1, 1), torch.zeros(1, 1), mask, ref_logprobs=ref, kl_coef=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * 0.306853, abs=TOLERANCE)
    assert new.grad.item() == pytest.approx(-0.5, abs=TOLERANCE)
    assert loss_means(sums)["kl_ref"] == pytest.approx(0.306853, abs=TOLERANCE)
    measured, sums = policy_loss(new, torch.zeros(1, 1), torch.zeros(1, 1), mask, ref_logprobs=ref)
    assert measured.item() == 0.0
    assert loss_means(sums)["kl_ref"] == pytest.approx(0.306853, abs=TOLERANCE)


def test_the_importance_weight_by_hand():
    # old - engine = log 4 and log 0.5: weights min(4, 3) = 3 and 0.5, on the surrogate and not on the KL.
    # l = -A w = -3, -0.5; KL 0.306853 each at ref - lp = log 2, coefficient 1: (-3.5 + 0.613706) / 2
    new, old = torch.full((1, 2), -1.0, requires_grad=True), torch.full((1, 2), -1.0, requires_grad=True)
    engine = torch.tensor([[-1.0 - math.log(4), -1.0 + math.log(2)]], requires_grad=True)
    adv, mask = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    ref = torch.full((1, 2), math.log(2) - 1.0)
    loss, sums = policy_loss(
        new, old, adv, mask, engine_logprobs=engine, importance_cap=3.0, ref_logprobs=ref, kl_coef=1.0
    )
    loss.backward()
    assert loss.item() == pytest.approx((-3.5 + 0.613706) / 2, abs=TOLERANCE)
    # d l / d lp = -rho A w + (1 - 2)
    assert new.grad.tolist()[0] == pytest.approx([(-3 - 1) / 2, (-0.5 - 1) / 2], abs=TOLERANCE)
    assert old.grad is None
    assert engine.grad is None
    assert loss_means(sums)["importance_mean"] == pytest.approx(1.75, abs=TOLERANCE)
    assert loss_means(sums)["importance_capped_frac"] == 0.5
    uncut, sums = policy_loss(new, old, adv, mask, engine_logprobs=engine)
    assert uncut.item() == pytest.approx(-4.5 / 2, abs=TOLERANCE)
    assert loss_means(sums)["importance_capped_frac"] == 0.0


def test_on_policy_logprobs_as_their_own_old_ones_have_the_plain_gradient():
    # old = lp.detach(): loss = -mean A, and its gradient is -A / N through lp
    new = torch.tensor([[-0.5, -1.0]], requires_grad=True)
    adv = torch.tensor([[1.0, -3.0]], requires_grad=True)
    loss, sums = policy_loss(new, new, adv, torch.ones(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert new.grad.tolist() == [[-0.5, 1.5]]
    assert adv.grad is None
    assert loss_means(sums)["ratio_mean"] == 1.0


def test_statistics_by_hand():
    # rho, A: 1.5 + (high), 0.5 - (low), 1.5 - and 0.5 + (neither), 1 +
    _, _, means = run([[1.5, 0.5, 1.5, 0.5, 1.0]], [[1.0, -1.0, -1.0, 1.0, 1.0]])
    assert (means["clip_high_frac"], means["clip_low_frac"], means["dual_clip_frac"]) == (0.2, 0.2, 0.0)
    assert means["ratio_mean"] == pytest.approx(1.0)
    # rho - 1 - log rho: 2 * (0.5 - 0.405465) + 2 * (-0.5 + 0.693147) = 0.575364
    assert means["approx_kl"] == pytest.approx(0.575364 / 5, abs=TOLERANCE)
    assert (means["kl_ref"], means["importance_mean"], means["importance_capped_frac"]) == (0.0, 1.0, 0.0)


def test_far_log_ratios_stay_finite():
    new = torch.tensor([[-900.0, -0.1]], requires_grad=True)
    old = torch.tensor([[-0.1, -900.0]])
    ones = torch.ones(1, 2, dtype=torch.bool)
    loss, sums = policy_loss(new, old, torch.tensor([[1.0, -1.0]]), ones, ref_logprobs=old, kl_coef=0.1)
    loss.backward()
    # -(e^-20) and e^20, k3 e^20 - 21 and e^-20 + 19, over 2 tokens
    assert loss.item() == pytest.approx((math.exp(20) + 0.1 * (math.exp(20) - 2)) / 2, rel=1e-6)
    assert new.grad.eq(0).all()
    assert math.isfinite(loss_means(sums)["approx_kl"])


@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_no_tokens_give_zero_with_a_graph(how, shape):
    new = torch.full(shape, NAN, requires_grad=True)
    mask = torch.zeros(shape, dtype=torch.bool)
    for normalizer in (None, 0.0, 7.0):
        loss, sums = policy_loss(new, new, new, mask, aggregation=how, max_length=3, normalizer=normalizer)
        loss.backward()
        assert loss.item() == 0.0
        assert new.grad.eq(0).all()
        assert (loss_means(sums)["ratio_mean"], loss_means(sums)["approx_kl"]) == (0.0, 0.0)


def test_half_precision_logprobs_are_reduced_in_float32():
    new = torch.full((1, 3), -1.0, dtype=torch.bfloat16, requires_grad=True)
    loss, _ = policy_loss(new, new, torch.full((1, 3), 0.1), torch.ones(1, 3, dtype=torch.bool))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-0.1, abs=1e-7)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_low": 1.5}, "clip_low 1.5"),
        ({"clip_high": -0.1}, "clip_high -0.1"),
        ({"dual_clip": 1.0}, "dual_clip 1.0"),
        ({"importance_cap": 2.0}, "importance_cap 2.0 without engine_logprobs"),
        ({"importance_cap": 0.0}, "importance_cap 0.0; expected a number > 0"),
        ({"kl_coef": 0.1}, "kl_coef 0.1 without ref_logprobs"),
        ({"normalizer": -1.0}, "normalizer -1.0"),
        ({"aggregation": "dr_grpo"}, "max_length None"),
        ({"aggregation": "mean"}, "expected one of token, sequence, dr_grpo"),
        ({"aggregation": "mean", "normalizer": 1.0}, "expected one of token, sequence, dr_grpo"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        run([[1.0]], [[1.0]], **settings)


def test_a_wrong_step_reaches_the_gradient_of_exactly_its_tokens():
    # Two right rollouts; tokens 2 and 3 of row 0 are a wrong step. Without it the gradient is 0 everywhere.
    error = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0] * 4])
    mask, group = torch.tensor([[True] * 4, [True] * 3 + [False]]), torch.zeros(2, dtype=torch.long)
    grads = []
    for w_process in (1.0, 0.0):
        new = torch.full((2, 4), -1.0, requires_grad=True)
        adv = advantages(token_rewards(torch.ones(2), error, 2.0, w_process), mask, group)
        policy_loss(new, new, adv, mask)[0].backward()
        grads.append(new.grad)
    assert grads[0].gt(0).equal(error.bool())  # descent lowers their logprobs, and no others
    assert grads[0].lt(0).equal(mask & ~error.bool())
    assert grads[1].eq(0).all()
