"""Hidden states -> logprobs and entropies of the response tokens, without the (m, V) logits in memory at once."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# Elements of one chunk's float32 logits by default: 128 MiB, of which about five copies live at a time. On a GPU 512
# MiB, a thousand tokens of a vocabulary of 130,000: with fewer, reading the weights takes longer than the product.
_CHUNK_ELEMENTS = {"cpu": 2**25, "cuda": 2**27}


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

    The product W h is in the dtype of the weights, as in the model's own head, everything after it in float32. Only
    one chunk of tokens has logits in memory, forward and backward: with several chunks each is computed again for its
    backward; a single chunk keeps its logits instead.

    Args:
        hidden: (m, d) last hidden states at the positions that predict the targets, padding left out.
        weight: (v, d) of the output head.
        targets: (m,) token ids in [0, v).
        bias: (v,) of the output head.
        temperature: > 0, the one that sampled.
        softcap: > 0, bound of the logits (Gemma), or None.
        scale: multiplies the logits before the softcap (Cohere; 1 / logits_scaling in Granite).
        chunk_tokens: tokens in a chunk, >= 1; by default as many as keep its float32 logits within 128 MiB, on a GPU
            512 MiB.

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
        chunk_tokens = default_chunk(hidden.device.type, weight.shape[0])
    if chunk_tokens < 1:
        raise ValueError(f"got chunk_tokens {chunk_tokens}; expected an integer >= 1")
    settings = (weight, bias, temperature, softcap, scale)
    if hidden.shape[0] <= chunk_tokens:
        return _chunk(hidden, targets, *settings)
    recompute = torch.is_grad_enabled()
    parts = []
    for start in range(0, hidden.shape[0], chunk_tokens):
        rows = slice(start, start + chunk_tokens)
        if recompute:
            # Nothing random happens in a chunk: no random state to save.
            part = checkpoint(
                _chunk, hidden[rows], targets[rows], *settings, use_reentrant=False, preserve_rng_state=False
            )
        else:
            part = _chunk(hidden[rows], targets[rows], *settings)
        parts.append(part)
    logprobs, entropy = zip(*parts, strict=True)
    return torch.cat(logprobs), torch.cat(entropy)


def default_chunk(device: str, vocabulary: int) -> int:
    """Tokens whose float32 logits exist at a time.

    Args:
        device: type of it: cpu, cuda.
        vocabulary: v, >= 1.
    """
    return max(1, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["cpu"]) // vocabulary)


def _chunk(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    logits = F.linear(hidden, weight, bias).float()
    if scale != 1:
        logits = logits * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    if temperature != 1:
        logits = logits / temperature
    chosen = logits.gather(1, targets[:, None]).squeeze(1)
    logprobs = chosen - logits.logsumexp(1)
    with torch.no_grad():
        entropy = torch.special.entr(logits.softmax(1)).sum(1)
    return logprobs, entropy
