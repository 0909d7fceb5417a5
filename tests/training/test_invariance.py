"""The real module's gradient does not depend on micro-batches, row order or padding: KL, importance weights, unknown
outcomes and ragged rows included."""

import random
from dataclasses import replace

import pytest
import torch

from capo_lit.training import logprobs as scoring
from capo_lit.training import policy as training
from tests.support.builders import tiny_llama
from tests.support.invariance import HOWS, TOLERANCE, distance, fit, forget, make_batch, make_groups

pytestmark = pytest.mark.slow

GROUPS = make_groups()
BUDGETS = (1, 120)  # every row alone; ten or so


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    tiny_llama(path, initializer_range=0.1)
    return str(path)


@pytest.fixture(scope="module", params=HOWS)
def whole(request, policy):
    """One micro-batch, rows in the order they were made."""
    module = fit(policy, make_batch(GROUPS), request.param)
    module.how = request.param
    return module


def assert_same(one, two):
    assert distance(one.gradients[0], two.gradients[0]) < TOLERANCE
    assert distance(one.weights(), two.weights()) < TOLERANCE  # after two updates


def test_every_term_of_the_loss_is_at_work(whole):
    outcomes = [row.outcome for group in GROUPS for row in group]
    assert {None, 0.0, 1.0} == set(outcomes)
    assert whole.logged["policy/kl_ref"] > 0.01
    assert 0.05 < whole.logged["policy/importance_capped_frac"] < 0.95
    assert whole.logged["policy/clip_low_frac"] > 0  # of the second update


@pytest.mark.parametrize("budget", BUDGETS)
def test_micro_batches(policy, whole, budget):
    split = fit(policy, make_batch(GROUPS), whole.how, budget)
    assert (whole.backwards, split.backwards >= 4) == (2, True)
    assert_same(split, whole)


@pytest.mark.parametrize("seed", range(2))
def test_the_order_of_groups_and_rows(policy, whole, seed):
    draw = random.Random(seed)
    moved = draw.sample([draw.sample(group, len(group)) for group in GROUPS], len(GROUPS))
    assert moved != GROUPS
    assert_same(fit(policy, make_batch(moved), whole.how, budget=60), whole)


def test_padding_under_a_long_row_of_unknown_outcome(policy, whole):
    # The longest row decides the width of every tensor; this one is in no mean and no loss.
    short, long = (replace(GROUPS[0][0], outcome=None, ids=(5,) * n, logprobs=(-2.0,) * n) for n in (3, 60))
    narrow, wide = make_batch([*GROUPS, [short]]), make_batch([*GROUPS, [long]])
    one, two = fit(policy, narrow, whole.how), fit(policy, wide, whole.how)
    widths = [batch.require_credit().mask.shape[1] for batch in (narrow, wide)]
    assert widths[0] <= 24 < widths[1] == 60
    assert_same(two, one)
    if whole.how != "dr_grpo":  # which counts every row
        assert_same(two, whole)


def padded(monkeypatch):
    """No row is packed."""
    for module in (scoring, training):
        monkeypatch.setattr(module, "can_pack", lambda model: False)


def test_padded_rows_are_packed_ones(policy, whole, monkeypatch):
    padded(monkeypatch)
    other = fit(policy, make_batch(GROUPS), whole.how)
    assert not torch.equal(other.gradients[0], whole.gradients[0])  # or both were padded
    assert_same(other, whole)


def test_padding_of_the_forward_may_hold_anything(policy, whole, monkeypatch):
    padded(monkeypatch)
    pad = scoring.pad_rows

    def wider(rows, fill, dtype, width=None):
        return torch.nn.functional.pad(pad(rows, 29, dtype, width), (0, 9), value=7)

    monkeypatch.setattr(scoring, "pad_rows", wider)
    assert_same(fit(policy, make_batch(GROUPS), whole.how), whole)


def test_rollouts_of_unknown_outcome_alone_move_nothing(policy, whole):
    module = fit(policy, make_batch(forget(GROUPS)), whole.how, budget=60)
    assert all(not gradient.any() for gradient in module.gradients)


def test_the_tolerance_notices_one_step_of_one_rollout(policy, whole):
    index, row = next((index, row) for index, row in enumerate(GROUPS[0]) if row.outcome is not None)
    changed = list(GROUPS[0])
    changed[index] = replace(row, errors=(row.errors[0], row.errors[1] + 0.5))
    other = fit(policy, make_batch([changed, *GROUPS[1:]]), whole.how)
    assert distance(other.gradients[0], whole.gradients[0]) > 1000 * TOLERANCE
