"""Rows of one prompt as one sequence: a group's prompt is computed once, and each of its responses attends to it.

A packed sequence holds the prompts that differ, one after the other, and then all responses, without padding. Every
layer but attention computes token by token and does not notice. Attention is called with a `Packed` and lays the
tokens out as rows again: prompts are causal, and a response sees the whole of its prompt and itself so far. So the
result, and its gradient, is that of padded rows up to the rounding of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from capo_lit.batch.step import pad_rows
from capo_lit.core.microbatches import Ids

_NAME = "capo_packed"
_FULL = "full_attention"
# Names that configurations have for attention of limited reach, where they do not list the layers' types.
_LIMITS = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True, eq=False)
class Packed:
    """Where the tokens of a packed sequence stand; T tokens of b prompts and n responses.

    Attributes:
        ids: (1, T) int64.
        positions: (1, T) int64, of each token in its row.
        predicting: (m,) int64; for each response token, row after row, the place whose hidden state predicts it.
        responses: (m,) int64; the places of the response tokens themselves.
        prompt_of: (n,) int64 in [0, b).
        widths: (p, r): tokens of the longest prompt and of the longest response.
        rows: (b * p + n * r,) int64; the place of each token when all are laid out as padded rows, -1 for padding.
        back: (T,) int64; where each token stands among `rows`.
        mask: (n or 1, 1, r, p + r) bool; which keys of its prompt and itself each response token sees.
    """

    ids: Tensor
    positions: Tensor
    predicting: Tensor
    responses: Tensor
    prompt_of: Tensor
    widths: tuple[int, int]
    rows: Tensor
    back: Tensor
    mask: Tensor


def pack(prompts: Sequence[Ids], responses: Sequence[Ids], device: torch.device) -> Packed:
    """Lay out n rows as one packed sequence.

    Args:
        prompts: n token sequences, none empty.
        responses: n token sequences, each the continuation of its prompt; one of them at least has a token.
        device: of the result.
    """
    places: dict[tuple[int, ...], int] = {}
    prompt_of = [places.setdefault(tuple(prompt), len(places)) for prompt in prompts]
    parts = [*places, *map(tuple, responses)]
    starts = [0, *accumulate(map(len, parts))]
    spans = [range(start, start + len(part)) for start, part in zip(starts, parts, strict=False)]
    heads, tails = spans[: len(places)], spans[len(places) :]
    offsets = [len(prompt) for prompt in prompts]
    positions = [range(len(head)) for head in heads]
    positions += [range(offset, offset + len(tail)) for offset, tail in zip(offsets, tails, strict=True)]
    before = [[heads[prompt][-1], *tail[:-1]] if tail else [] for prompt, tail in zip(prompt_of, tails, strict=True)]
    padded = [pad_rows(part, -1, torch.long) for part in (heads, tails)]
    rows = torch.cat([part.flatten() for part in padded])
    back = torch.empty(starts[-1], dtype=torch.long)
    (filled,) = (rows >= 0).nonzero(as_tuple=True)
    back[rows[filled]] = filled
    widths = padded[0].shape[1], padded[1].shape[1]

    def flat(parts: Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(list(chain.from_iterable(parts)), dtype=torch.long, device=device)

    return Packed(
        ids=flat(parts)[None],
        positions=flat(positions)[None],
        predicting=flat(before),
        responses=flat(tails),
        prompt_of=torch.tensor(prompt_of, device=device),
        widths=widths,
        rows=rows.to(device),
        back=back.to(device),
        mask=_mask(torch.tensor(offsets), *widths).to(device),
    )


def _mask(lengths: Tensor, width: int, tail: int) -> Tensor:
    """(n or 1, 1, tail, width + tail): all of a prompt, and of the response what is not later."""
    if bool((lengths == width).all()):
        lengths = lengths[:1]  # then it is the same for all
    key, query = torch.arange(width + tail), torch.arange(tail)[:, None]
    seen = (key < lengths[:, None, None]) | ((key >= width) & (key - width <= query))
    return seen[:, None]


class _Lay(torch.autograd.Function):
    """x[places], with zeros where a place is -1. Each row of x stands there once: backward is a lookup too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        return _lookup(x, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        return _lookup(grad, back), None, None


_lay: Any = _Lay.apply  # torch gives it no types


def _lookup(x: Tensor, places: Tensor) -> Tensor:
    found = x.index_select(0, places.clamp(min=0))
    gaps = places < 0
    return found.masked_fill_(gaps.view(-1, *(1,) * (x.ndim - 1)), 0) if bool(gaps.any()) else found


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packed: Packed | None = None,
    scaling: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (1, heads, T, d) in and (1, T, heads, d) out; without `packed` its own."""
    if packed is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **options)
    (p, r), n = packed.widths, packed.prompt_of.numel()
    b = (packed.rows.numel() - n * r) // p
    complete = packed.rows.numel() == packed.back.numel()  # nothing to pad: rows stand in order

    def laid(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x[0].transpose(0, 1)
        x = x if complete else _lay(x, packed.rows, packed.back)
        return x[: b * p].unflatten(0, (b, p)), x[b * p :].unflatten(0, (n, r))

    (ask, asks), (prompt_key, keys), (prompt_value, values) = laid(query), laid(key), laid(value)
    prompts = _sdpa(ask, prompt_key, prompt_value, scaling)
    keys = torch.cat([prompt_key.index_select(0, packed.prompt_of), keys], 1)
    values = torch.cat([prompt_value.index_select(0, packed.prompt_of), values], 1)
    out = torch.cat([prompts.flatten(0, 1), _sdpa(asks, keys, values, scaling, packed.mask).flatten(0, 1)])
    out = out if complete else _lay(out, packed.back, packed.rows)
    return out[None], None


def _sdpa(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None = None) -> Tensor:
    """(rows, tokens, heads, d) in and out; causal without a mask."""
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=mask is None, scale=scaling, enable_gqa=grouped)
    return out.transpose(1, 2)


def packed_arguments(packed: Packed) -> dict[str, Any]:
    """What a model's forward pass takes for a packed sequence."""
    # A mask of four dimensions is handed on as it is: none is built, and `_attention` has its own.
    nothing = torch.ones((1, 1, 1, 1), dtype=torch.bool, device=packed.ids.device)
    return {"input_ids": packed.ids, "position_ids": packed.positions, "attention_mask": nothing, "packed": packed}


def can_pack(model: Any) -> bool:
    """Whether packed rows are computed: by a model that `enable_packing` accepted, where it lies on the CPU.

    On a GPU the mask would cost the flash kernel, which gains more than the prompts of a group do.
    """
    return packing_enabled(model) and model.device.type == "cpu"


def packing_enabled(model: Any) -> bool:
    """Whether `enable_packing` accepted it."""
    return bool(model.config.get_text_config()._attn_implementation == _NAME)


def enable_packing(model: Any) -> str:
    """Let a causal LM compute packed rows, if its attention reaches back over the whole of a row.

    Returns:
        Why it can not, or "" if it can.
    """
    text = model.config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds and set(kinds) != {_FULL}:
        return f"it has layers of {', '.join(sorted({*kinds} - {_FULL}))}"
    limits = [] if kinds else [name for name in _LIMITS if getattr(text, name, None)]
    if limits:
        return f"its {limits[0]} is {getattr(text, limits[0])}"
    if not model._supports_attention_backend:
        return f"{type(model).__name__} has an attention of its own"
    model.set_attn_implementation(_NAME)
    return ""


def disable_packing(model: Any) -> None:
    """Undo `enable_packing`."""
    model.set_attn_implementation("sdpa")


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
