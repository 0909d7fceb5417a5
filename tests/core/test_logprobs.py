"""Chunked logprobs: equal to the full log-softmax in value and gradient, and never its size in memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from capo_lit.core.logprobs import default_chunk, token_logprobs

TOLERANCE = 1e-5
SETTINGS = [
    {},
    {"temperature": 0.7},
    {"scale": 0.5, "softcap": 3.0, "temperature": 1.3},
    {"bias": torch.linspace(-1, 1, 11)},
]


def make_case(m=7, v=11, d=5, dtype=torch.float32):
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(m, d, generator=rng).to(dtype).requires_grad_()
    weight = torch.randn(v, d, generator=rng).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(v, (m,), generator=rng)


def full(hidden, weight, targets, bias=None, temperature=1.0, softcap=None, scale=1.0):
    """The definition, with all logits at once."""
    logits = (hidden @ weight.T + (0 if bias is None else bias)).float() * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logs = (logits / temperature).log_softmax(-1)
    return logs.gather(1, targets[:, None])[:, 0], -(logs.exp() * logs).sum(-1)


def test_by_hand():
    # logits 0, log 3: p = 1/4, 3/4; entropy = log 4 - 3/4 log 3 = 0.562335
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(3)]])
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert logprobs.tolist() == pytest.approx([math.log(0.25), math.log(0.75)], abs=TOLERANCE)
    assert entropy.tolist() == pytest.approx([0.562335] * 2, abs=TOLERANCE)
    # temperature 0.5 doubles the logits: p = 1/10, 9/10
    hot, _ = token_logprobs(hidden, weight, torch.tensor([0, 1]), temperature=0.5)
    assert hot.tolist() == pytest.approx([math.log(0.1), math.log(0.9)], abs=TOLERANCE)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100, None])
def test_values_and_gradients_are_those_of_the_full_softmax(settings, chunk_tokens):
    hidden, weight, targets = make_case()
    upstream = torch.linspace(-1, 2, 7)
    expected, entropy = full(hidden, weight, targets, **settings)
    grads = torch.autograd.grad(expected @ upstream, (hidden, weight))
    got, got_entropy = token_logprobs(hidden, weight, targets, chunk_tokens=chunk_tokens, **settings)
    got_grads = torch.autograd.grad(got @ upstream, (hidden, weight))
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(got_entropy, entropy, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(got_grads, grads, rtol=0, atol=TOLERANCE)
    assert not got_entropy.requires_grad


def test_the_bias_has_a_gradient():
    hidden, weight, targets = make_case()
    bias = torch.zeros(11, requires_grad=True)
    token_logprobs(hidden, weight, targets, bias=bias, chunk_tokens=2)[0].sum().backward()
    full_bias = torch.zeros(11, requires_grad=True)
    full(hidden, weight, targets, bias=full_bias)[0].sum().backward()
    torch.testing.assert_close(bias.grad, full_bias.grad, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("chunk_tokens", [2, None])
def test_bfloat16_logits_are_reduced_in_float32(chunk_tokens):
    hidden, weight, targets = make_case(dtype=torch.bfloat16)
    logprobs, entropy = token_logprobs(hidden, weight, targets, chunk_tokens=chunk_tokens)
    expected, expected_entropy = full(hidden, weight, targets)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(entropy, expected_entropy, rtol=0, atol=TOLERANCE)
    logprobs.sum().backward()
    assert weight.grad.dtype == torch.bfloat16


def test_impossible_tokens_leave_the_entropy_finite():
    _, entropy = token_logprobs(
        torch.ones(1, 1), torch.zeros(3, 1), torch.tensor([0]), bias=torch.tensor([0, 0, -math.inf])
    )
    assert entropy.item() == pytest.approx(math.log(2), abs=TOLERANCE)


def test_no_tokens():
    hidden, weight, targets = make_case(m=0)
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    logprobs.sum().backward()
    assert logprobs.shape == entropy.shape == (0,)
    assert weight.grad.eq(0).all()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"softcap": -1.0}, {"chunk_tokens": 0}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=str(next(iter(settings.values())))):
        token_logprobs(*make_case(), **settings)


class Sizes(TorchDispatchMode):
    """Records the largest tensor that any operator makes, and counts the products with the head."""

    def __init__(self, v):
        super().__init__()
        self.largest, self.products, self.v = 0, 0, v

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        self.largest = max([self.largest, *(leaf.numel() for leaf in tensors)])
        made_logits = any(leaf.dim() == 2 and leaf.shape[1] == self.v for leaf in tensors)
        self.products += made_logits and func._schema.name in ("aten::mm", "aten::addmm")
        return out


@pytest.mark.parametrize(("chunk_tokens", "products"), [(8, 16), (64, 1)])
def test_one_chunk_of_logits_at_a_time_forward_and_backward(chunk_tokens, products):
    m, v, d = 64, 500, 4
    hidden, weight, targets = make_case(m, v, d)
    with Sizes(v) as sizes:
        token_logprobs(hidden, weight, targets, chunk_tokens=chunk_tokens)[0].sum().backward()
    # chunk * v elements, although m * v = 32000 logits were needed
    assert sizes.largest == chunk_tokens * v
    # 8 chunks are computed twice (forward, backward), a single one once
    assert sizes.products == products


def test_without_gradient_nothing_is_kept():
    hidden, weight, targets = make_case()
    with torch.no_grad():
        logprobs, _ = token_logprobs(hidden, weight, targets, chunk_tokens=2)
    assert not logprobs.requires_grad
    torch.testing.assert_close(logprobs, full(hidden, weight, targets)[0], rtol=0, atol=TOLERANCE)


def test_kept_logits_are_used_up_by_one_backward_pass_and_a_second_one_is_refused():
    hidden, weight, targets = make_case()
    logprobs, _ = token_logprobs(hidden, weight, targets)
    torch.autograd.grad(logprobs.sum(), weight, retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace operation"):
        torch.autograd.grad(logprobs.sum(), weight)


@pytest.mark.parametrize("chunk_tokens", [3, None])
def test_under_autocast_the_product_alone_is_in_bfloat16(chunk_tokens):
    hidden, weight, targets = make_case()
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, weight, targets, chunk_tokens=chunk_tokens)
        expected = F.linear(hidden, weight).float().log_softmax(1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=TOLERANCE)
    one, two = (torch.autograd.grad(values.sum(), (hidden, weight)) for values in (logprobs, expected))
    assert one[1].dtype == torch.float32
    torch.testing.assert_close(one, two, rtol=0, atol=0.02)


def test_a_frozen_head_gets_no_gradient():
    hidden, weight, targets = make_case()
    expected = torch.autograd.grad(full(hidden, weight, targets)[0].sum(), hidden)
    got = torch.autograd.grad(token_logprobs(hidden, weight.detach(), targets)[0].sum(), hidden)
    torch.testing.assert_close(got, expected, rtol=0, atol=TOLERANCE)


def test_the_default_chunk_keeps_its_logits_within_512_mib():
    # 512 MiB hold 2^27 float32 logits: 2^15 tokens of 2^12, so that 2^15 + 1 tokens make a second chunk of one
    v = 2**12
    targets = torch.zeros(2**15 + 1, dtype=torch.long, device="meta")
    with Sizes(v) as sizes, torch.no_grad():
        token_logprobs(torch.ones(2**15 + 1, 1, device="meta"), torch.zeros(v, 1, device="meta"), targets)
    assert sizes.largest == 2**27
    assert sizes.products == 2
    assert default_chunk(128_256) == 1046  # 2^27 / 128256 = 1046.5
    assert default_chunk(2**28) == 1
