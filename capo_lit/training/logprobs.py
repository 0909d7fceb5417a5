"""Logprobs of given responses under a Hugging Face causal LM, in micro-batches of a token budget."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from capo_lit.batch.step import pad_rows
from capo_lit.core.errors import ConfigError
from capo_lit.core.logprobs import token_logprobs
from capo_lit.core.microbatches import Ids, tally
from capo_lit.training.packing import can_pack, pack, packed_arguments

SCORING = "logprobs_of"
"""The method of a sharded model that scores: `logprobs_of`, with its weights gathered around it."""

Scoring = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def head_arguments(model: Any) -> dict[str, Any]:
    """What the model does between its last hidden states and its logits, as arguments of token_logprobs."""
    config, head = model.config.get_text_config(), model.get_output_embeddings()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return {"weight": head.weight, "bias": getattr(head, "bias", None), "scale": scale, "softcap": softcap}


def response_logprobs(
    model: Any,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs and entropies of the response tokens, by one forward pass.

    Where rows share prompts, a model on the CPU computes each prompt once, if that pays; see `packing`. Elsewhere rows
    are right-padded and no attention mask is passed: under causal attention what stands to the right of a token
    cannot reach it. The full (rows, width, vocabulary) logits never exist in fp32; see core.logprobs.

    Args:
        model: a Hugging Face causal LM.
        prompts: r token sequences.
        responses: r token sequences, each the continuation of its prompt.
        temperature: logits are divided by it, as the engine divided them when it sampled.
        chunk_tokens: tokens whose logits exist at one time; by default what 512 MiB hold.

    Returns:
        (logprobs, entropies), both (r, t) float32 with t the longest response; entropies are detached. Padding is 0.
    """
    scoring: Scoring | None = getattr(model, SCORING, None)
    if scoring is None:
        return logprobs_of(model, prompts, responses, temperature, chunk_tokens)
    return scoring(prompts, responses, temperature, chunk_tokens)


def logprobs_of(
    model: Any,
    prompts: Sequence[Ids],
    responses: Sequence[Ids],
    temperature: float,
    chunk_tokens: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `response_logprobs`, with a model whose weights are all there."""
    states, targets = states_before(model.base_model, prompts, responses)
    options = {"temperature": temperature, "chunk_tokens": chunk_tokens, **head_arguments(model)}
    flat, entropy = token_logprobs(states, targets=targets, **options)
    return as_rows(flat, responses), as_rows(entropy, responses)


def states_before(backbone: Any, prompts: Sequence[Ids], responses: Sequence[Ids]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden states that predict the response tokens, by one forward pass over padded or packed rows.

    Args:
        backbone: a Hugging Face causal LM without its head.
        prompts: r token sequences.
        responses: r token sequences, each the continuation of its prompt.

    Returns:
        (m, d) states and (m,) int64, the tokens that they predict; m response tokens, row after row.
    """
    if tally(prompts, responses, can_pack(backbone)).packs and any(responses):
        packed = pack(prompts, responses, backbone.device)
        hidden = backbone(**packed_arguments(packed), use_cache=False).last_hidden_state[0]
        # Not by brackets: their gradient adds up what a prompt's last token gets from each response in any order.
        return hidden.index_select(0, packed.predicting), packed.ids[0, packed.responses]
    ids = pad_rows([(*p, *r) for p, r in zip(prompts, responses, strict=True)], 0, torch.long).to(backbone.device)
    hidden = backbone(input_ids=ids, use_cache=False).last_hidden_state
    places = [row for row, response in enumerate(responses) for _ in response]
    columns = [len(p) + t for p, r in zip(prompts, responses, strict=True) for t in range(len(r))]
    # The hidden state at one position predicts the token at the next.
    return hidden[places, [column - 1 for column in columns]], ids[places, columns]


def as_rows(flat: torch.Tensor, responses: Sequence[Ids]) -> torch.Tensor:
    """(m,) values of the response tokens, row after row, as (r, t) with t the longest response; padding is 0."""
    lengths = torch.tensor([len(response) for response in responses], device=flat.device)
    width = max((len(response) for response in responses), default=0)
    there = torch.arange(width, device=flat.device) < lengths[:, None]
    return flat.new_zeros(there.shape).masked_scatter(there, flat)


@torch.no_grad()
def check_head(model: Any) -> None:
    """Refuse a model whose logits are not what head_arguments says.

    Raises:
        ConfigError: if logprobs from hidden states differ from those of the model's own logits.
    """
    device = model.get_output_embeddings().weight.device
    row = list(range(min(8, model.config.get_text_config().vocab_size)))
    logits = model(input_ids=torch.tensor([row], device=device), use_cache=False).logits[0].float()
    expected = logits.log_softmax(-1)[range(len(row) - 1), row[1:]]
    got, _ = response_logprobs(model, [row[:1]], [row[1:]])
    gap = (got[0] - expected).abs().max().item()
    if not gap < (1e-3 if logits.dtype == torch.float32 and model.dtype == torch.float32 else 0.1):
        raise ConfigError(
            f"{type(model).__name__}, whose logits differ from head(hidden states) by {gap:.2e} in logprob",
            "a causal LM whose head is linear, up to logit_scale, logits_scaling and final_logit_softcapping",
            change="--policy",
        )


@torch.no_grad()
def packs_exactly(model: Any) -> bool:
    """Whether a model that packs rows has the hidden states of rows that stand alone.

    A layer that does not hand on what it is called with, or that looks back by other means than attention, has not.
    """
    row = [index % model.config.get_text_config().vocab_size for index in range(8)]
    prompts, responses = [row[:5], row[:5], row[1:3]], [row[5:6], row[5:], row[4:]]
    together, _ = states_before(model.base_model, prompts, responses)
    alone = [states_before(model.base_model, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    apart = torch.cat(alone)
    return bool((together - apart).abs().max() < 1e-4 * apart.abs().max())
