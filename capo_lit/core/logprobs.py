"""Hidden states -> logprobs and entropies of the response tokens, without the (m, V) logits in memory at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor

# Elements of one chunk's float32 logits by default, 512 MiB: a thousand tokens of a vocabulary of 130,000. On a GPU,
# with fewer, reading the weights takes longer than the product; on a CPU, with more chunks than one each logit is
# computed twice.
_CHUNK_ELEMENTS = 2**27
_BLOCK = 64  # rows of a chunk whose probabilities exist at a time, for the entropy


def token_logprobs(
    hidden: Float[Tensor, "m d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " m"],
    *,
    bias: Float[Tensor, " v"] | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk_tokens: int | None = None,
) -> tuple[Float32[Tensor, " m"], Float32[Tensor, " m"]]:
    """Log-probability of every target, and the entropy of its distribution.

    z = scale (W h + bias);  z = softcap tanh(z / softcap), if set;  p = softmax(z / temperature)
    logprob = log p[target];  entropy = -sum_v p_v log p_v

    The product W h is in the dtype of the weights or of autocast, as in the model's own head, everything after it in
    float32. Only one chunk of tokens has logits in memory, once, forward and backward: with several chunks each is
    computed again for its backward; a single chunk keeps its logits instead, which one backward pass uses up.

    Args:
        hidden: (m, d) last hidden states at the positions that predict the targets, padding left out.
        weight: (v, d) of the output head.
        targets: (m,) token ids in [0, v).
        bias: (v,) of the output head.
        temperature: > 0, the one that sampled.
        softcap: > 0, bound of the logits (Gemma), or None.
        scale: multiplies the logits before the softcap (Cohere; 1 / logits_scaling in Granite).
        chunk_tokens: tokens in a chunk, >= 1; by default as many as keep its float32 logits within 512 MiB.

    Returns:
        (m,) float32 logprobs in nats, with gradient to `hidden`, `weight` and `bias`; (m,) float32 entropies in nats,
        without.

    Raises:
        ValueError: if a setting is out of range.
    """
    if temperature <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(
            f"got temperature {temperature}, softcap {softcap}; expected numbers > 0 (softcap may be None)"
        )
    if chunk_tokens is None:
        chunk_tokens = default_chunk(weight.shape[0])
    if chunk_tokens < 1:
        raise ValueError(f"got chunk_tokens {chunk_tokens}; expected an integer >= 1")
    apply: Any = _Logprobs.apply  # torch gives it no types
    logprobs, entropy = apply(hidden, weight, bias, targets, _Shape(temperature, softcap, scale), chunk_tokens)
    return logprobs, entropy


def default_chunk(vocabulary: int) -> int:
    """Tokens whose float32 logits exist at a time.

    Args:
        vocabulary: v, >= 1.
    """
    return max(1, _CHUNK_ELEMENTS // vocabulary)


@dataclass(frozen=True)
class _Shape:
    """What happens to W h + bias before the softmax, and to its gradient; both in place, float32."""

    temperature: float
    softcap: float | None
    scale: float

    def apply(self, logits: Tensor) -> Tensor:
        if self.scale != 1:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits if self.temperature == 1 else logits.div_(self.temperature)

    def gradient(self, logits: Tensor, targets: Tensor, total: Tensor, grad: Tensor) -> Tensor:
        """The gradient to W h + bias in the place of the logits that `apply` gave; grad_i is that of logprob i."""
        slope = None
        if self.softcap is not None:  # 1 - tanh^2
            slope = (logits * (self.temperature / self.softcap)).square_().neg_().add_(1)
        logits.sub_(total[:, None]).exp_().mul_(-grad[:, None])
        logits.scatter_add_(1, targets[:, None], grad[:, None])
        if slope is not None:
            logits.mul_(slope)
        factor = self.scale / self.temperature
        return logits if factor == 1 else logits.mul_(factor)


class _Logprobs(torch.autograd.Function):
    """Logprobs and entropies, with d logprob / d logits = onehot(target) - softmax written out."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, shape: _Shape, chunk: int
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        ctx.dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        ctx.shape, ctx.chunk, logits = shape, chunk, None
        chosen, total, entropy = (hidden.new_empty(hidden.shape[0], dtype=torch.float32) for _ in range(3))
        for rows, logits in _chunks(ctx, hidden, weight, bias):
            chosen[rows] = logits.gather(1, targets[rows, None])[:, 0]
            for start in range(0, logits.shape[0], _BLOCK):
                block = logits[start : start + _BLOCK]
                place = slice(rows.start + start, rows.start + start + len(block))
                total[place] = block.logsumexp(1)
                entropy[place] = torch.special.entr(block.softmax(1)).sum(1)
        ctx.save_for_backward(hidden, weight, bias, targets, total, logits if hidden.shape[0] <= chunk else None)
        ctx.mark_non_differentiable(entropy)
        return chosen - total, entropy

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, total, kept = ctx.saved_tensors
        head, wanted = weight.to(ctx.dtype), ctx.needs_input_grad
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight) if wanted[1] else None
        to_bias = torch.zeros_like(bias) if wanted[2] else None
        once = [] if kept is None else [(slice(0, hidden.shape[0]), kept)]
        for rows, logits in once or _chunks(ctx, hidden, weight, bias):
            slope = ctx.shape.gradient(logits, targets[rows], total[rows], grad[rows]).to(ctx.dtype)
            if to_hidden is not None:
                to_hidden[rows] = slope @ head
            if to_weight is not None and ctx.dtype == weight.dtype:
                to_weight.addmm_(slope.T, hidden[rows].to(ctx.dtype))
            elif to_weight is not None:
                to_weight.add_(slope.T @ hidden[rows].to(ctx.dtype))
            if to_bias is not None:
                to_bias.add_(slope.sum(0))
        return to_hidden, to_weight, to_bias, None, None, None


def _chunks(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The float32 logits of each chunk, which the caller may overwrite."""
    head, shift = weight.to(ctx.dtype), None if bias is None else bias.to(ctx.dtype)
    for start in range(0, hidden.shape[0], ctx.chunk):
        rows = slice(start, min(start + ctx.chunk, hidden.shape[0]))
        yield rows, ctx.shape.apply(F.linear(hidden[rows].to(ctx.dtype), head, shift).float())
