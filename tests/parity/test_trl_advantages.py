"""TRL's own scoring of a generation batch, and our estimator `sequence` on the same rewards."""

import pytest
import torch

from capo_lit.core.credit import advantages, token_rewards
from capo_lit.core.reduce import group_stats
from tests.parity import trl_world
from tests.parity.agreement import assert_agree, relative_gap
from tests.parity.fixed import NAN, OUTCOMES, PER_GROUP, ROWS

pytestmark = pytest.mark.parity

GROUP = torch.arange(ROWS) // PER_GROUP
OUTCOME_SETS = {
    "right or wrong": OUTCOMES,  # mixed, all right, one unknown
    "fractions": (0.125, 0.5, 0.875, 0.25, 0.3, 0.7, NAN, 1.0, 0.0, 0.0, 0.01, 0.0),
    "little known": (NAN, NAN, NAN, NAN, 1.0, NAN, NAN, NAN, 1.0, NAN, NAN, 0.0),  # none, one, two of the group
}


def trl_advantages(folder, fixed, outcomes, scale=2.0, **settings):
    """(n,) from TRL, whose reward is `scale` times the outcome, None where it is unknown."""
    rewards = [None if outcome != outcome else scale * outcome for outcome in outcomes]
    return trl_world.score_fixed(folder, fixed, rewards, **settings)["advantages"]


def our_advantages(fixed, outcomes, w_whole=2.0, **settings):
    """(n,) of the estimator `sequence` without a process term."""
    rewards = token_rewards(torch.tensor(outcomes), torch.zeros(fixed.mask.shape), w_whole, 0.0)
    rows = advantages(rewards, fixed.mask, GROUP, "sequence", **settings)
    assert rows.equal(rows[:, :1] * fixed.mask)  # one number per row
    return rows[:, 0]


@pytest.mark.parametrize("outcomes", OUTCOME_SETS.values(), ids=OUTCOME_SETS)
def test_the_advantages(trl, folder, fixed, outcomes):
    expected = trl_advantages(folder, fixed, outcomes)
    got = our_advantages(fixed, outcomes)
    assert_agree(got, expected)
    assert got.eq(0).equal(expected.eq(0))
    assert got[torch.tensor(outcomes).isnan()].eq(0).all()


def test_an_all_equal_group_gets_zero(trl, folder, fixed):
    assert trl_advantages(folder, fixed, (1.0,) * ROWS).eq(0).all()
    assert our_advantages(fixed, (1.0,) * ROWS).eq(0).all()


def test_the_standard_deviation_without_unknown_rows(trl):
    from trl.trainer.utils import nanstd

    rewards = torch.tensor(OUTCOME_SETS["fractions"])
    stats = group_stats(rewards.nan_to_num()[:, None], ~rewards.isnan()[:, None], GROUP, ROWS // PER_GROUP)
    assert_agree(stats.std, nanstd(rewards.view(-1, PER_GROUP), dim=1))


def test_eps_is_absolute_so_the_reward_must_be_w_whole_times_the_outcome(trl, folder, fixed):
    # r in {0, 1}: std 0.577350, A = 0.5 / (0.577350 + 1e-4) = 0.865875; r in {0, 2}: 1 / (1.154701 + 1e-4) = 0.865950
    ones = trl_advantages(folder, fixed, OUTCOMES, scale=1.0)
    assert ones[0].item() == pytest.approx(0.865875, abs=1e-6)
    assert relative_gap(our_advantages(fixed, OUTCOMES), ones) > 5e-5
    assert_agree(our_advantages(fixed, OUTCOMES, w_whole=1.0), ones)


def test_equal_fractions_are_exactly_zero_here_and_rounding_noise_in_trl(trl, folder, fixed):
    # The float32 mean of twelve rewards of 1.4 misses 1.4 by 2.4e-7: 2.4e-7 / (2.5e-7 + 1e-4) = 0.0024.
    noise = trl_advantages(folder, fixed, (0.7,) * ROWS, num_generations=ROWS)
    assert noise.abs().min() > 0.002
    rewards = token_rewards(torch.full((ROWS,), 0.7), torch.zeros(fixed.mask.shape), 2.0, 0.0)
    assert advantages(rewards, fixed.mask, torch.zeros_like(GROUP), "sequence").eq(0).all()


@pytest.mark.parametrize("scaling", ["none", "batch"])
def test_other_scalings_of_trl_differ_by_the_divisor_alone(trl, folder, fixed, scaling):
    outcomes = OUTCOME_SETS["fractions"]
    rewards = 2 * torch.tensor(outcomes, dtype=torch.float64).view(-1, PER_GROUP)
    known = [row[~row.isnan()] for row in rewards]
    own = torch.stack([row.std() + 1e-4 for row in known]).repeat_interleave(PER_GROUP)
    divisor = 1.0 if scaling == "none" else torch.cat(known).std() + 1e-4
    expected = trl_advantages(folder, fixed, outcomes, scale_rewards=scaling)
    assert_agree(our_advantages(fixed, outcomes) * own / divisor, expected)
    assert relative_gap(our_advantages(fixed, outcomes), expected) > 0.01
