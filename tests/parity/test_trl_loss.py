"""TRL's own GRPO loss and ours on fixed logprobs: every token's loss, the reductions, and their gradients."""

import pytest
import torch

from capo_lit.core.loss import loss_normalizer
from tests.parity import trl_world
from tests.parity.agreement import assert_agree, relative_gap
from tests.parity.fixed import MAX_LENGTH, ROWS
from tests.parity.ours import fixed_loss

pytestmark = pytest.mark.parity

HALVES = (slice(0, ROWS // 2), slice(ROWS // 2, ROWS))
# TRL's reduction -> our aggregation.
AGGREGATIONS = {"grpo": "sequence", "bnpo": "token", "dr_grpo": "dr_grpo", "dapo": "token"}
# Settings of TRL, and the same in our words.
TERMS = {
    "clip": ({}, {}),
    "asymmetric clip": ({"epsilon_low": 0.15, "epsilon_high": 0.28}, {"clip_low": 0.15, "clip_high": 0.28}),
    "dual clip": ({"delta": 3.0}, {"dual_clip": 3.0}),
    "KL": ({"beta": 0.05, "use_bias_correction_kl": False}, {"kl_coef": 0.05}),
    "all": (
        {"epsilon_low": 0.1, "epsilon_high": 0.3, "delta": 2.0, "beta": 0.5, "use_bias_correction_kl": False},
        {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 2.0, "kl_coef": 0.5},
    ),
}


@pytest.fixture(params=["row advantages", "token advantages"])
def advantages(request, fixed):
    """(n,) of the estimator `sequence`, TRL's own form; (n, t) of `token_pooled`, its subclasses' form."""
    return fixed.row_advantages if request.param == "row advantages" else fixed.token_advantages


def test_the_fixed_rows_reach_every_branch_of_the_clip(fixed):
    ratio = (fixed.logprobs(fixed.logits) - fixed.old).exp()
    for adv in (fixed.row_advantages[:, None].expand(ratio.shape), fixed.token_advantages):
        for sign in (adv > 0, adv < 0):
            for region in (ratio < 0.05, (ratio > 0.8) & (ratio < 1.2), (ratio > 1.2) & (ratio < 2), ratio > 50):
                assert (sign & region & fixed.mask).any()
    assert fixed.row_advantages[4:8].eq(0).all()  # all right
    assert fixed.row_advantages[10] == 0  # unknown
    assert fixed.mask.sum(1).unique().numel() == 7  # ragged: every length


@pytest.mark.parametrize("term", TERMS)
def test_every_tokens_loss(trainer, fixed, advantages, term):
    theirs, mine = TERMS[term]
    losses = []
    # The loss of a mask of one token, over one token, is that token's.
    for row, place in fixed.mask.nonzero().tolist():
        mask = torch.zeros_like(fixed.mask)
        mask[row, place] = True
        only = slice(row, row + 1)
        with trl_world.configured(trainer, loss_type="dapo", **theirs):
            expected = trl_world.loss_and_gradient(trainer, fixed, trl_world.loss_inputs(fixed, advantages, mask), only)
        losses.append((fixed_loss(fixed, advantages, mask, only, **mine)[0], expected[0]))
    assert_agree(*map(torch.stack, zip(*losses, strict=True)))


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("reduction", AGGREGATIONS)
def test_the_reductions_and_their_gradients(trainer, fixed, advantages, reduction, term):
    theirs, mine = TERMS[term]
    with trl_world.configured(trainer, loss_type=reduction, **theirs):
        inputs = trl_world.loss_inputs(fixed, advantages, fixed.mask)
        loss, gradient = trl_world.loss_and_gradient(trainer, fixed, inputs)
    got, got_gradient = fixed_loss(fixed, advantages, fixed.mask, aggregation=AGGREGATIONS[reduction], **mine)
    assert_agree(got, loss)
    assert_agree(got_gradient, gradient)


@pytest.mark.parametrize("reduction", AGGREGATIONS)
def test_the_reductions_over_accumulated_micro_batches(trainer, fixed, advantages, reduction):
    # Two micro-batches of one optimizer step. Ours divides by the whole step's normalizer; TRL's bnpo alone by the
    # micro-batch's own tokens, and then by the number of micro-batches.
    aggregation = AGGREGATIONS[reduction]
    for rows in HALVES:
        with trl_world.configured(trainer, steps=(2, 2), loss_type=reduction):
            inputs = trl_world.loss_inputs(fixed, advantages, fixed.mask)
            loss, gradient = trl_world.loss_and_gradient(trainer, fixed, inputs, rows)
        if reduction == "bnpo":
            normalizer = 2 * loss_normalizer(fixed.mask[rows], aggregation)
        else:
            normalizer = loss_normalizer(fixed.mask, aggregation, MAX_LENGTH)
        got, got_gradient = fixed_loss(
            fixed, advantages, fixed.mask, rows, aggregation=aggregation, normalizer=normalizer
        )
        assert_agree(got, loss)
        assert_agree(got_gradient, gradient)


@pytest.mark.parametrize("level", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
def test_the_importance_weight(trl, trainer, folder, fixed, level):
    # One-sided token truncation is ours; TRL's three other modes, its default among them, are not.
    cap = 2.0
    scored = trl_world.score_fixed(
        folder, fixed, [0.0] * ROWS, vllm_importance_sampling_mode=level, vllm_importance_sampling_clip_max=cap
    )
    assert scored["old_per_token_logps"].equal(fixed.old)
    inputs = trl_world.loss_inputs(fixed, fixed.row_advantages, fixed.mask)
    inputs["importance_sampling_ratio"] = scored["importance_sampling_ratio"]
    settings = {"use_vllm": True, "beta": 0.1, "use_bias_correction_kl": False, "loss_type": "dapo"}
    with trl_world.configured(trainer, **settings):
        loss, gradient = trl_world.loss_and_gradient(trainer, fixed, inputs)
    got, got_gradient = fixed_loss(
        fixed, fixed.row_advantages, fixed.mask, engine_logprobs=fixed.engine, importance_cap=cap, kl_coef=0.1
    )
    if level == "token_truncate":
        assert_agree(got, loss)
        assert_agree(got_gradient, gradient)
    else:
        assert relative_gap(got_gradient, gradient) > 0.01
