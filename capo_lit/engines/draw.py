"""One token per row from logits, so that a row's draw depends on its own seed alone."""

from collections.abc import Sequence

import torch

from capo_lit.batch.sampling import Sampling


def draw(
    logits: torch.Tensor, samplings: Sequence[Sampling], uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw one token per row by inverting the cumulative distribution: the first id with cdf(id) > u.

    Args:
        logits: (n, V) float32.
        samplings: n ways of drawing; temperature 0 takes the likeliest token.
        uniforms: (n,) float64 in [0, 1).

    Returns:
        ids: (n,) int64.
        logprobs: (n,) float32, under the tempered and truncated distribution (temperature 0: log_softmax(logits)).
    """
    # Greedy rows are neither tempered nor truncated: their logprobs would all be 0.
    greedy = torch.tensor([sampling.temperature == 0 for sampling in samplings])
    temperature = torch.tensor([sampling.temperature or 1.0 for sampling in samplings])
    scaled = logits / temperature[:, None]
    if any(sampling.truncates and sampling.temperature for sampling in samplings):
        top_k = torch.tensor([(s.temperature and s.top_k) or logits.shape[1] for s in samplings], dtype=torch.long)
        top_p = torch.tensor([s.top_p if s.temperature else 1.0 for s in samplings])
        scaled = truncate(scaled, top_k, top_p)
    logprobs = torch.log_softmax(scaled, dim=-1)
    cdf = logprobs.double().exp().cumsum(dim=-1)
    drawn = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1)
    ids = torch.where(greedy, logits.argmax(dim=-1), drawn)
    return ids, logprobs.gather(1, ids[:, None])[:, 0]


def truncate(logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set to -inf what is not among the k likeliest, then what is outside the smallest set of mass >= p.

    Args:
        logits: (n, V) float32, tempered.
        top_k: (n,) int64 >= 1.
        top_p: (n,) float in (0, 1]; 1 keeps every token.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[1])
    ordered = ordered.masked_fill(rank >= top_k[:, None], -torch.inf)
    mass = ordered.double().softmax(dim=-1)
    # A token stays while the likelier ones have not reached p; the likeliest always stays.
    outside = (mass.cumsum(dim=-1) - mass >= top_p[:, None]) & (rank > 0) & (top_p[:, None] < 1)
    return torch.full_like(logits, -torch.inf).scatter(1, order, ordered.masked_fill(outside, -torch.inf))
