"""Where TRL's conventions are not ours: the difference, as a formula, is all there is between the two.

Each test is named in docs/parity.md.
"""

import pytest
import torch

from capo_lit.core.loss import loss_normalizer, policy_loss
from tests.parity import trl_world
from tests.parity.agreement import assert_agree, relative_gap
from tests.parity.fixed import NAN, OUTCOMES, ROWS
from tests.parity.ours import fixed_loss

pytestmark = pytest.mark.parity

HALF = slice(0, ROWS // 2)


def trl_loss(trainer, fixed, mask=None, rows=slice(None), changed=None, **settings):
    """TRL's loss and gradient with row advantages; `changed` inputs replace the fixed ones."""
    with trl_world.configured(trainer, **{"loss_type": "dapo", **settings}):
        inputs = trl_world.loss_inputs(fixed, fixed.row_advantages, fixed.mask if mask is None else mask)
        return trl_world.loss_and_gradient(trainer, fixed, inputs | (changed or {}), rows)


def our_loss(fixed, mask=None, rows=slice(None), **settings):
    return fixed_loss(fixed, fixed.row_advantages, fixed.mask if mask is None else mask, rows, **settings)


def assert_both_agree(got, expected):
    for mine, theirs in zip(got, expected, strict=True):
        assert_agree(mine, theirs)


def test_trls_row_mean_counts_rows_without_a_token(trainer, fixed):
    mask = fixed.mask & (torch.arange(ROWS) != 1)[:, None]
    theirs = trl_loss(trainer, fixed, mask, loss_type="grpo")
    assert_both_agree(our_loss(fixed, mask, aggregation="sequence", normalizer=float(ROWS)), theirs)
    # by default the row without a token is not counted: TRL's gradient is 11/12 of ours
    assert_agree(our_loss(fixed, mask, aggregation="sequence")[1] * (ROWS - 1) / ROWS, theirs[1])


def test_trls_bnpo_weighs_micro_batches_equally_and_the_token_aggregation_weighs_tokens(trainer, fixed):
    theirs = trl_loss(trainer, fixed, rows=HALF, steps=(2, 2), loss_type="bnpo")
    step, part = loss_normalizer(fixed.mask), loss_normalizer(fixed.mask[HALF])
    got = our_loss(fixed, rows=HALF, normalizer=step)
    assert part != step / 2
    assert_both_agree([value * step / (2 * part) for value in got], theirs)


def test_trls_dapo_divides_every_optimizer_step_by_the_mean_tokens_of_a_step(trainer, fixed):
    # Two optimizer steps per generation: TRL divides each by half of all tokens, we by the step's own.
    theirs = trl_loss(trainer, fixed, rows=HALF, steps=(1, 2))
    step, generation = loss_normalizer(fixed.mask[HALF]), loss_normalizer(fixed.mask)
    got = our_loss(fixed, rows=HALF)
    assert step != generation / 2
    assert_both_agree([value * step / (generation / 2) for value in got], theirs)


def test_trls_kl_is_times_the_ratio_by_default(trainer, fixed):
    beta, tokens = 0.3, fixed.mask.sum()
    theirs = trl_loss(trainer, fixed, beta=beta, use_bias_correction_kl=True)
    logits = fixed.logits.clone().requires_grad_()
    now = fixed.logprobs(logits)
    to_ref = fixed.reference - now
    corrected = (now - fixed.old).exp() * (to_ref.exp() - to_ref - 1)
    term = beta * torch.where(fixed.mask, corrected, 0.0).sum() / tokens
    (gradient,) = torch.autograd.grad(term, logits)
    without = our_loss(fixed)
    assert_both_agree((without[0] + term.detach(), without[1] + gradient), theirs)
    assert relative_gap(our_loss(fixed, kl_coef=beta)[1], theirs[1]) > 0.1


def test_on_policy_trls_kl_factor_changes_the_gradient_alone(trainer, fixed):
    # rho = 1: the same loss; d(rho k) = dk + k d(lp), so the gradients differ by beta k for each token's logprob.
    on_policy = fixed.logprobs(fixed.logits)
    (loss, gradient), (plain, plain_gradient) = (
        trl_loss(trainer, fixed, changed={"old_per_token_logps": on_policy}, beta=0.3, use_bias_correction_kl=factor)
        for factor in (True, False)
    )
    assert_agree(loss, plain)
    logits = fixed.logits.clone().requires_grad_()
    to_ref = fixed.reference - on_policy
    k3 = torch.where(fixed.mask, to_ref.exp() - to_ref - 1, 0.0)
    (difference,) = torch.autograd.grad((0.3 * k3 * fixed.logprobs(logits)).sum() / fixed.mask.sum(), logits)
    assert_agree(plain_gradient + difference, gradient)
    assert relative_gap(plain_gradient, gradient) > 0.01


@pytest.mark.parametrize("bound", [1.1, 1.2, 3.0])
def test_trls_delta_is_the_dual_clip_from_the_upper_clip_on(trainer, fixed, bound):
    theirs, mine = trl_loss(trainer, fixed, delta=bound), our_loss(fixed, dual_clip=bound)
    if bound < 1.2:  # delta cuts the ratios of good tokens too, and leaves bad ones at the clip's 1.2
        assert relative_gap(mine[1], theirs[1]) > 0.01
    else:
        assert_both_agree(mine, theirs)


def test_log_ratios_beyond_20_are_clamped_here_and_not_in_trl(trainer, fixed):
    row, place = 1, 0  # a bad token
    assert fixed.row_advantages[row] < 0
    now = fixed.logprobs(fixed.logits)
    mask = torch.zeros_like(fixed.mask)
    mask[row, place] = True
    for gap in (19.0, 25.0):
        old = now - gap
        loss, gradient = trl_loss(trainer, fixed, mask, changed={"old_per_token_logps": old})
        logits = fixed.logits.clone().requires_grad_()
        adv = fixed.row_advantages[:, None].expand(mask.shape)
        mine, _ = policy_loss(fixed.logprobs(logits), old, adv, mask)
        (mine_gradient,) = torch.autograd.grad(mine, logits)
        if gap < 20:
            assert_both_agree((mine.detach(), mine_gradient), (loss, gradient))
        else:
            assert_agree(mine.detach() * torch.tensor(gap - 20).exp(), loss)
            assert mine_gradient.eq(0).all()
            assert gradient.abs().max() > 1e9


def test_padding_may_hold_anything_here_and_must_be_finite_in_trl(trainer, fixed):
    spoiled = torch.where(fixed.mask, fixed.old, NAN)
    assert trl_loss(trainer, fixed, changed={"old_per_token_logps": spoiled})[0].isnan()
    adv = torch.where(fixed.mask, fixed.row_advantages[:, None], NAN)
    loss, _ = policy_loss(fixed.logprobs(fixed.logits), spoiled, adv, fixed.mask)
    assert_agree(loss, our_loss(fixed)[0])


def test_a_row_of_unknown_outcome_leaves_our_mask_and_counts_in_trls(trainer, fixed):
    known = fixed.mask & ~torch.tensor(OUTCOMES).isnan()[:, None]
    theirs, got = trl_loss(trainer, fixed), our_loss(fixed, known)
    counted, all_tokens = loss_normalizer(known), loss_normalizer(fixed.mask)
    assert counted < all_tokens
    assert_both_agree([value * counted / all_tokens for value in got], theirs)


def test_a_missing_engine_logprob_is_weight_one_in_trl_and_nan_here(trl, folder, fixed):
    engine = fixed.engine.clone()
    engine[0, 1] = NAN
    unscored = type(fixed)(**{**{name: getattr(fixed, name) for name in fixed.__slots__}, "engine": engine})
    mode = {"vllm_importance_sampling_mode": "token_truncate", "vllm_importance_sampling_clip_max": 2.0}
    weights = trl_world.score_fixed(folder, unscored, [0.0] * ROWS, **mode)["importance_sampling_ratio"]
    assert weights[0, 1] == 1
    loss, _ = our_loss(fixed, engine_logprobs=engine, importance_cap=2.0)
    assert loss.isnan()
