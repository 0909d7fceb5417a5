"""GAE, timed rewards, whitening and the values' loss: golden cases by hand, properties, and a literal loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capo_lit.core.loss import loss_normalizer
from examples.ppo.gae import explained_variance, gae, timed_rewards, value_loss, whiten

NAN = float("nan")


def literal_gae(rewards, values, gamma, lam):
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, one row, as the paper writes it."""
    after = [*values[1:], 0.0][: len(values)]
    deltas = [r + gamma * v_next - v for r, v, v_next in zip(rewards, values, after, strict=True)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, len(deltas))) for t in range(len(deltas))]


def tensor(rows, dtype=torch.float32):
    return torch.tensor(rows, dtype=dtype)


@st.composite
def batches(draw):
    n, t = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    number = st.floats(-3, 3, width=32)
    rewards, values = ([[draw(number) for _ in range(t)] for _ in range(n)] for _ in range(2))
    mask = [[draw(st.booleans()) for _ in range(t)] for _ in range(n)]
    return tensor(rewards), tensor(values), torch.tensor(mask), draw(st.floats(0, 1)), draw(st.floats(0, 1))


def test_a_case_by_hand():
    # gamma 0.5, lam 0.5, so gamma lam = 0.25; R = (0, 0, 2), V = (1, 2, 4).
    # delta = (0 + 0.5*2 - 1, 0 + 0.5*4 - 2, 2 + 0 - 4) = (0, 0, -2)
    # A = (0.25*-0.5, 0.25*-2, -2) = (-0.125, -0.5, -2);  returns = A + V = (0.875, 1.5, 2)
    mask = torch.tensor([[True, True, True, False]])
    advantages, returns = gae(tensor([[0, 0, 2, NAN]]), tensor([[1, 2, 4, NAN]]), mask, 0.5, 0.5)
    assert advantages.tolist() == [[-0.125, -0.5, -2.0, 0.0]]
    assert returns.tolist() == [[0.875, 1.5, 2.0, 0.0]]


@settings(max_examples=60, deadline=None)
@given(batches())
def test_gae_is_the_papers_sum(batch):
    rewards, values, mask, gamma, lam = batch
    advantages, returns = gae(*batch)
    for row in range(len(mask)):
        kept = mask[row]
        expected = literal_gae(rewards[row][kept].tolist(), values[row][kept].tolist(), gamma, lam)
        assert advantages[row][kept].tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert not advantages[row][~kept].any()
        assert not returns[row][~kept].any()
    torch.testing.assert_close(returns[mask], (advantages + values)[mask], atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(batches())
def test_with_lambda_1_and_no_discount_advantages_are_returns_to_go_minus_values(batch):
    rewards, values, mask, *_ = batch
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    to_go = rewards.flip(1).cumsum(1).flip(1)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    torch.testing.assert_close(advantages, torch.where(mask, to_go - values, 0.0), atol=1e-5, rtol=1e-5)
    # lam 0 is the one-step error: the last token's is R - V whatever the rest.
    torch.testing.assert_close(returns, torch.where(mask, to_go, 0.0), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(batches(), st.floats(allow_nan=True, allow_infinity=True, width=32))
def test_what_is_outside_the_mask_has_no_effect(batch, junk):
    rewards, values, mask, gamma, lam = batch
    dirty = [torch.where(mask, x, junk) for x in (rewards, values)]
    for clean, other in zip(gae(*batch), gae(*dirty, mask, gamma, lam), strict=True):
        assert torch.equal(clean, other)
    assert torch.equal(whiten(rewards, mask), whiten(dirty[0], mask))
    assert explained_variance(*dirty, mask) == explained_variance(rewards, values, mask)


@pytest.mark.parametrize(("gamma", "lam", "name"), [(1.1, 1.0, "gamma 1.1"), (1.0, -0.1, "lam -0.1")])
def test_factors_outside_0_to_1_are_refused(gamma, lam, name):
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match=name):
        gae(one, one, one.bool(), gamma, lam)


def test_the_outcome_comes_at_the_end_and_a_wrong_step_costs_the_same_whatever_its_length():
    # Row 0: step 0 (2 tokens, wrong), step 1 (3 tokens, half wrong), the end token; right: 2 at the end.
    # -1/2 on each token of step 0, -0.5/3 on each of step 1.
    # Row 1: one step of one token, wrong; the answer is wrong too. Row 2: unknown, so outside the mask.
    steps = torch.tensor([[0, 0, 1, 1, 1, -1], [0, -1, -1, -1, -1, -1], [0, 0, 0, -1, -1, -1]])
    error = tensor([[1, 1, 0.5, 0.5, 0.5, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]])
    mask = torch.tensor([[True] * 6, [True, True] + [False] * 4, [False] * 6])
    got = timed_rewards(tensor([1.0, 0.0, NAN]), error, steps, mask, 2.0, 1.0)
    sixth = 0.5 / 3
    torch.testing.assert_close(got[0], tensor([-0.5, -0.5, -sixth, -sixth, -sixth, 2.0]))
    assert got[1].tolist() == [-1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert not got[2].any()
    # Undiscounted they add up to r W_whole - W_process * (sum of the steps' e).
    torch.testing.assert_close(got.sum(1), tensor([2 - 1.5, -1.0, 0.0]))


def test_a_step_that_goes_on_to_the_last_token_bears_its_cost_and_the_outcome():
    got = timed_rewards(tensor([1.0]), tensor([[1, 1]]), torch.tensor([[0, 0]]), torch.ones(1, 2).bool(), 2.0, 3.0)
    assert got.tolist() == [[-1.5, 0.5]]


def test_rows_of_zero_tokens_have_no_rewards():
    empty = torch.zeros(2, 0)
    assert timed_rewards(tensor([1.0, NAN]), empty, empty.long(), empty.bool(), 2.0, 1.0).shape == (2, 0)
    assert gae(empty, empty, empty.bool(), 1.0, 1.0)[0].shape == (2, 0)


def test_whitening_has_mean_0_and_deviation_1_and_keeps_a_flat_batch_at_0():
    mask = torch.tensor([[True, True], [True, False]])
    # (1, 2, 6): mean 3, std sqrt((4 + 1 + 9) / 3) = 2.160247
    got = whiten(tensor([[1, 2], [6, NAN]]), mask)
    assert got.flatten().tolist() == pytest.approx([-0.925820, -0.462910, 1.388730, 0.0], abs=1e-5)
    assert not whiten(torch.full((2, 2), 0.1), mask).any()
    assert not whiten(torch.full((2, 2), 0.1), torch.zeros(2, 2).bool()).any()


def test_whitening_adds_sums_up_over_ranks():
    # Two ranks with the halves of one batch: each gets what it would get in one process.
    values, mask = tensor([[1, 2, 6], [4, 5, 9]]), torch.tensor([[True, True, True], [True, True, False]])
    halves = [iter([]), iter([])]
    for mine, other in ((0, 1), (1, 0)):
        kept = values[other][mask[other]].double()
        mean = values[mask].double().mean()
        # What the other rank contributes, in the order it is asked for: count, sum, sum of squared deviations.
        halves[mine] = iter([kept.new_tensor(len(kept)), kept.sum(), (kept - mean).square().sum()])
    whole = whiten(values, mask)
    for rank in (0, 1):
        part = whiten(values[rank : rank + 1], mask[rank : rank + 1], lambda x, rank=rank: x + next(halves[rank]))
        torch.testing.assert_close(part, whole[rank : rank + 1])


def test_explained_variance_by_hand():
    mask = torch.tensor([[True, True, True, False]])
    returns = tensor([[0, 2, 4, NAN]])
    # Squared deviations of the returns: 4 + 0 + 4.
    assert explained_variance(returns, returns + 7, mask) == (8.0, 8.0)  # a constant is no variance
    assert explained_variance(returns, torch.zeros(1, 4), mask) == (0.0, 8.0)
    # Errors (0, 0, 3), squared deviations 1 + 1 + 4: 2 of 8 are explained.
    assert explained_variance(returns, tensor([[0, 2, 1, 5]]), mask) == pytest.approx((2.0, 8.0))
    assert explained_variance(torch.ones(1, 4), returns, mask)[1] == 0.0


def test_explained_variance_of_two_ranks_is_that_of_their_tokens_together():
    returns, values = tensor([[0, 2, 4, 1]]), tensor([[0, 2, 1, 0]])
    halves = [torch.tensor([[True, True, False, False]]), torch.tensor([[False, False, True, True]])]
    asked = []
    for half in halves:
        explained_variance(returns, values, half, lambda own: asked.append(own) or own)
    both = sum(asked)
    parts = [explained_variance(returns, values, half, lambda own: both) for half in halves]
    whole = explained_variance(returns, values, torch.ones(1, 4, dtype=torch.bool))
    assert [sum(numbers) for numbers in zip(*parts, strict=True)] == pytest.approx(whole)


def test_the_values_loss_by_hand():
    # clip 0.5 around 1. V = 1.2 moves freely: (1.2 - 2)^2 = 0.64. V = 1.8 is clipped to 1.5: the error of 1.5 to 2 is
    # 0.25 and larger than 0.04. V = 0 is clipped to 0.5 and its own error of 4 is larger than 2.25.
    now = tensor([[1.2, 1.8, 0.0, NAN]]).requires_grad_()
    mask = torch.tensor([[True, True, True, False]])
    old, target = torch.ones(1, 4), torch.full((1, 4), 2.0)
    loss = value_loss(now, old, target, mask, clip=0.5, normalizer=3.0)
    assert loss.item() == pytest.approx((0.64 + 0.25 + 4.0) / 2 / 3)
    loss.backward()
    # d/dV of (V - R)^2 / 2 / 3; none where the clipped error is the larger, none outside the mask.
    assert now.grad.tolist()[0] == pytest.approx([-0.8 / 3, 0.0, -2.0 / 3, 0.0])
    free = value_loss(now, old, target, mask, clip=None, normalizer=3.0)
    assert free.item() == pytest.approx((0.64 + 0.04 + 4.0) / 2 / 3)
    with pytest.raises(ValueError, match="clip 0"):
        value_loss(now, old, target, mask, clip=0.0, normalizer=1.0)


@pytest.mark.parametrize("aggregation", ["token", "sequence", "dr_grpo"])
def test_losses_of_parts_add_up_to_the_whole(aggregation):
    draw = torch.Generator().manual_seed(0)
    now, old, target = (torch.randn(4, 5, generator=draw) for _ in range(3))
    mask = torch.rand(4, 5, generator=draw) < 0.6
    count = loss_normalizer(mask, aggregation, 8)
    kwargs = {"aggregation": aggregation, "normalizer": count}
    parts = [value_loss(now[i], old[i], target[i], mask[i], **kwargs) for i in (slice(0, 1), slice(1, 4))]
    whole = value_loss(now, old, target, mask, **kwargs)
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
    assert float(value_loss(now, old, target, mask & False, aggregation=aggregation, normalizer=0.0)) == 0.0
