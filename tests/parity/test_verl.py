"""verl's formulas, as a literal reference in float64, and our core in float32 on the same tensors."""

import math

import pytest
import torch

from capo_lit.core.credit import advantages, token_rewards
from capo_lit.core.loss import loss_normalizer, policy_loss
from tests.parity import verl_reference as verl
from tests.parity.agreement import assert_agree, relative_gap
from tests.parity.fixed import MAX_LENGTH, PER_GROUP, ROWS

pytestmark = pytest.mark.parity

GROUP = torch.arange(ROWS) // PER_GROUP
SCORES = [2.0, 0.0, 2.0, 0.0, 2.0, 2.0, 2.0, 2.0, 1.5, 0.25, 0.5, 0.0]
# verl's loss_agg_mode -> our aggregation and the normalizer that makes them equal (None: our default).
MODES = {
    "token-mean": ("token", None),
    "token-sum": ("token", lambda mask: 1.0),
    "seq-mean-token-mean": ("sequence", None),
    "seq-mean-token-sum": ("token", lambda mask: loss_normalizer(mask, "sequence")),
    "seq-mean-token-sum-norm": ("dr_grpo", None),
}


def ragged(fixed, values, mask=None):
    """(n, t) -> ragged rows of float64 scalars."""
    mask = fixed.mask if mask is None else mask
    return [list(row[keep]) for row, keep in zip(values.double(), mask, strict=True)]


def verl_loss(fixed, adv, mode="token-mean", mask=None, dual=3.0, kl_coef=0.0, level=None):
    """Loss () and gradient (n, t) with respect to the logprobs, by the literal loops."""
    now = fixed.logprobs(fixed.logits).double().requires_grad_()
    names = [ragged(fixed, value, mask) for value in (now, fixed.old, fixed.engine, fixed.reference, adv)]
    rows = []
    for lps, olds, engines, refs, advs in zip(*names, strict=True):
        weights = verl.rollout_weights(olds, engines, level) if level else [1.0] * len(lps)
        rows.append(
            [
                verl.token_loss(lp, old, float(a), 0.2, 0.28, dual) * weight + kl_coef * verl.token_kl(lp, ref)
                for lp, old, ref, a, weight in zip(lps, olds, refs, advs, weights, strict=True)
            ]
        )
    loss = verl.aggregate(rows, mode, scale=MAX_LENGTH)
    (gradient,) = torch.autograd.grad(loss, now)
    return loss.detach(), gradient


def our_loss(fixed, adv, mask=None, dual_clip=3.0, **settings):
    """The same of policy_loss."""
    now = fixed.logprobs(fixed.logits).requires_grad_()
    settings = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": dual_clip, "max_length": MAX_LENGTH} | settings
    if settings.get("kl_coef"):
        settings["ref_logprobs"] = fixed.reference
    loss, _ = policy_loss(now, fixed.old, adv, fixed.mask if mask is None else mask, **settings)
    (gradient,) = torch.autograd.grad(loss, now)
    return loss.detach(), gradient


def our_advantages(fixed, scores, group, **settings):
    rewards = token_rewards(torch.tensor(scores) / 2, torch.zeros(fixed.mask.shape), 2.0, 0.0)
    return advantages(rewards, fixed.mask, group, "sequence", **settings)[:, 0]


@pytest.fixture(params=["row advantages", "token advantages"])
def adv(request, fixed):
    """(n, t): one number per row, or one per token."""
    per_row = fixed.row_advantages[:, None].expand(fixed.mask.shape)
    return per_row if request.param == "row advantages" else fixed.token_advantages


def test_the_advantages(fixed):
    expected = torch.tensor(verl.outcome_advantages(SCORES, GROUP.tolist()))
    assert_agree(our_advantages(fixed, SCORES, GROUP, eps=1e-6), expected)
    # our default eps of a row estimator is TRL's 1e-4
    assert relative_gap(our_advantages(fixed, SCORES, GROUP), expected) > 5e-5


def test_the_advantages_without_division_are_the_numerator(fixed):
    expected = torch.tensor(verl.outcome_advantages(SCORES, GROUP.tolist(), divide=False))
    std = torch.tensor(SCORES, dtype=torch.float64).view(-1, PER_GROUP).std(1).repeat_interleave(PER_GROUP)
    assert_agree(our_advantages(fixed, SCORES, GROUP) * (std + 1e-4), expected)


def test_a_rollout_alone_in_its_group_keeps_its_reward_in_verl_and_gets_zero_here(fixed):
    alone = torch.arange(ROWS)
    assert verl.outcome_advantages(SCORES, alone.tolist())[0] == pytest.approx(2 / (1 + 1e-6))
    assert our_advantages(fixed, SCORES, alone).eq(0).all()


@pytest.mark.parametrize("mode", MODES)
def test_the_loss_in_every_aggregation(fixed, adv, mode):
    aggregation, normalizer = MODES[mode]
    settings = {"aggregation": aggregation, "normalizer": normalizer and normalizer(fixed.mask)}
    for mine, theirs in zip(our_loss(fixed, adv, **settings), verl_loss(fixed, adv, mode), strict=True):
        assert_agree(mine, theirs)


def test_rows_without_a_token_count_in_neither_row_mean(fixed, adv):
    mask = fixed.mask & (torch.arange(ROWS) != 1)[:, None]
    expected = verl_loss(fixed, adv, "seq-mean-token-mean", mask)
    for mine, theirs in zip(our_loss(fixed, adv, mask, aggregation="sequence"), expected, strict=True):
        assert_agree(mine, theirs)


def test_rows_without_a_token_count_in_dr_grpo_and_not_in_verls_norm(fixed, adv):
    mask = fixed.mask & (torch.arange(ROWS) != 1)[:, None]
    expected = verl_loss(fixed, adv, "seq-mean-token-sum-norm", mask)
    for mine, theirs in zip(our_loss(fixed, adv, mask, aggregation="dr_grpo"), expected, strict=True):
        assert_agree(mine * ROWS / (ROWS - 1), theirs)


def test_the_dual_clip_is_on_in_verl_and_off_here_by_default(fixed, adv):
    without = our_loss(fixed, adv, dual_clip=None)
    for mine, theirs in zip(without, verl_loss(fixed, adv, dual=math.inf), strict=True):
        assert_agree(mine, theirs)
    assert relative_gap(without[1], verl_loss(fixed, adv)[1]) > 0.1


def test_the_kl(fixed, adv):
    for mine, theirs in zip(our_loss(fixed, adv, kl_coef=0.5), verl_loss(fixed, adv, kl_coef=0.5), strict=True):
        assert_agree(mine, theirs)


def test_verls_kl_stops_at_ten_and_ours_goes_on():
    # d = 3: e^3 - 4 = 16.085537
    now, ref = torch.zeros(1, 1, requires_grad=True), torch.full((1, 1), 3.0)
    zero, mask = torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool)
    loss, _ = policy_loss(now, zero, zero, mask, ref_logprobs=ref, kl_coef=1.0)
    loss.backward()
    assert loss.item() == pytest.approx(16.085537, rel=1e-6)
    assert now.grad.item() == pytest.approx(-19.085537, rel=1e-6)
    theirs = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bounded = verl.token_kl(theirs, ref[0, 0].double())
    bounded.backward()
    assert (bounded.item(), theirs.grad.item()) == (10.0, 0.0)


def test_the_rollout_correction(fixed, adv):
    got = our_loss(fixed, adv, engine_logprobs=fixed.engine, importance_cap=2.0, kl_coef=0.1)
    for mine, theirs in zip(got, verl_loss(fixed, adv, level="token", kl_coef=0.1), strict=True):
        assert_agree(mine, theirs)
    assert relative_gap(got[1], verl_loss(fixed, adv, level="sequence", kl_coef=0.1)[1]) > 0.01
