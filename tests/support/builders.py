"""Small honest objects for unit tests: rollouts with real pieces, and tiny random models."""

from pathlib import Path

from capo_lit.batch.facts import Completion, Prompt, Rollout


def make_prompt(uid: str = "p", ids: tuple[int, ...] = (1, 2), problem: str = "1+1?", answer: str = "2") -> Prompt:
    """A prompt; ids are arbitrary."""
    return Prompt(uid, problem, ids, answer)


def make_completion(
    pieces: tuple[str, ...] = ("a", "\n\n", "b", ""), ids: tuple[int, ...] | None = None, logprobs=None, version=0
) -> Completion:
    """A completion whose last piece is an end token if it is empty."""
    ids = tuple(range(3, 3 + len(pieces))) if ids is None else ids
    special = tuple(piece == "" for piece in pieces)
    logprobs = tuple(-1.0 for _ in pieces) if logprobs is None else logprobs
    return Completion("0", ids, pieces, special, "".join(pieces), logprobs, "stop", 2, version, 0.1)


def make_rollout(row: int, group: int = 0, outcome: float | None = 1.0, **completion) -> Rollout:
    """One rollout of one prompt."""
    return Rollout(row, group, row, make_prompt(), make_completion(**completion), outcome)


def tiny_llama(folder: Path, vocab: int = 32, seed: int = 0, **config):
    """A random two-layer Llama, saved without a tokenizer and returned."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
        **config,
    }
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.save_pretrained(folder)
    return model
