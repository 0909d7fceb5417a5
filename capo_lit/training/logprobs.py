"""Logprobs of given responses under a Hugging Face causal LM, in micro-batches of a token budget."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from capo_lit.batch.step import pad_rows
from capo_lit.core.errors import ConfigError
from capo_lit.core.logprobs import token_logprobs

TokenIds = Sequence[int]
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
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    temperature: float = 1.0,
    chunk_tokens: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logprobs and entropies of the response tokens, by one forward pass.

    Rows are right-padded and no attention mask is passed: under causal attention what stands to the right of a token
    cannot reach it. The full (rows, width, vocabulary) logits never exist in fp32; see core.logprobs.

    Args:
        model: a Hugging Face causal LM.
        prompts: r token sequences.
        responses: r token sequences, each the continuation of its prompt.
        temperature: logits are divided by it, as the engine divided them when it sampled.
        chunk_tokens: tokens whose logits exist at one time; by default what 128 MiB hold, on a GPU 512 MiB.

    Returns:
        (logprobs, entropies), both (r, t) float32 with t the longest response; entropies are detached. Padding is 0.
    """
    scoring: Scoring | None = getattr(model, SCORING, None)
    if scoring is None:
        return logprobs_of(model, prompts, responses, temperature, chunk_tokens)
    return scoring(prompts, responses, temperature, chunk_tokens)


def logprobs_of(
    model: Any,
    prompts: Sequence[TokenIds],
    responses: Sequence[TokenIds],
    temperature: float,
    chunk_tokens: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `response_logprobs`, with a model whose weights are all there."""
    device = model.get_output_embeddings().weight.device
    ids = pad_rows([(*p, *r) for p, r in zip(prompts, responses, strict=True)], 0, torch.long).to(device)
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    rows = [row for row, response in enumerate(responses) for _ in response]
    columns = [len(p) + t for p, r in zip(prompts, responses, strict=True) for t in range(len(r))]
    slots = [t for response in responses for t in range(len(response))]
    # The hidden state at one position predicts the token at the next.
    predicting = hidden[rows, [column - 1 for column in columns]]
    options = {"temperature": temperature, "chunk_tokens": chunk_tokens, **head_arguments(model)}
    flat, entropy = token_logprobs(predicting, targets=ids[rows, columns], **options)
    shape = (len(responses), max((len(response) for response in responses), default=0))
    index = (torch.tensor(rows, device=device), torch.tensor(slots, device=device))
    return flat.new_zeros(shape).index_put(index, flat), entropy.new_zeros(shape).index_put(index, entropy)


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
