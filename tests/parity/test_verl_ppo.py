"""verl's GAE, whitening and value loss, as a literal reference in float64, and ours in float32."""

import pytest
import torch

from capo_lit.core.loss import loss_normalizer
from examples.ppo.gae import gae, value_loss, whiten
from tests.parity import verl_reference as verl
from tests.parity.agreement import assert_agree
from tests.parity.fixed import NAN

pytestmark = pytest.mark.parity

MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0]]).bool()  # row 1 has a hole
REWARDS = torch.tensor([[0.0, 0.0, -0.5, -0.5, 2.0, NAN], [0.0, -1.0, NAN, NAN, 0.0, 0.25], [2.0, *[NAN] * 5]])
VALUES = torch.tensor([[0.3, 0.9, 0.1, -0.2, 1.1, NAN], [1.5, 0.7, NAN, NAN, -0.4, 0.6], [0.8, *[NAN] * 5]])


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (1.0, 0.95), (0.9, 0.5), (0.9, 0.0)])
def test_the_advantages_and_returns(gamma, lam):
    rows = [
        verl.gae(r[keep].tolist(), v[keep].tolist(), gamma, lam)
        for r, v, keep in zip(REWARDS, VALUES, MASK, strict=True)
    ]
    for got, which in zip(gae(REWARDS, VALUES, MASK, gamma, lam), (0, 1), strict=True):
        assert_agree(got[MASK], torch.tensor([x for row in rows for x in row[which]]))
        assert got[~MASK].eq(0).all()


def test_whitening_has_another_ddof_and_eps_in_verl():
    values = VALUES[MASK]
    var, std = values.double().var(), values.double().std(correction=0)
    got = whiten(VALUES, MASK)[MASK]
    assert_agree(got * (std + 1e-8) / (var + 1e-8).sqrt(), torch.tensor(verl.whiten(values.tolist())))


@pytest.mark.parametrize("clip", [0.2, 0.5])
def test_the_value_loss(clip):
    # moved from the old value by nothing, by less and by more than the clip, on both sides of the target
    old = VALUES + torch.tensor([0.0, 0.1, -0.3, 0.7, -0.9, 0.0])
    returns = VALUES + torch.tensor([0.4, -0.4, 1.0, -1.0, 0.2, -0.2])
    now = VALUES.clone().requires_grad_()
    got = value_loss(now, old, returns, MASK, clip=clip, normalizer=loss_normalizer(MASK))
    (gradient,) = torch.autograd.grad(got, now)
    scalars = VALUES.double().requires_grad_()
    terms = zip(scalars[MASK], old[MASK].tolist(), returns[MASK].tolist(), strict=True)
    expected = verl.aggregate([[verl.value_loss(v, o, r, clip) for v, o, r in terms]], "token-mean")
    (expected_gradient,) = torch.autograd.grad(expected, scalars)
    assert_agree(got.detach(), expected.detach())
    assert_agree(gradient, expected_gradient)
