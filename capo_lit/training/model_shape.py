"""How large a causal LM is, from its config alone: nothing is loaded or downloaded but config.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from capo_lit.core.errors import ConfigError


@dataclass(frozen=True)
class ModelShape:
    """The sizes that memory follows from.

    Args:
        parameters: all of them; tied weights count once.
        layers: decoder layers.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward part.
        vocabulary: rows of the output head.
        kv_width: width of a layer's keys, and of its values: key-value heads x head size.
        tied: the output head is the embedding.
        linear: inputs and outputs of all linear layers but the head, summed.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    kv_width: int
    tied: bool
    linear: int

    @property
    def head(self) -> int:
        """Parameters of the output head."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Parameters of one decoder layer."""
        return (self.parameters - self.head * (1 if self.tied else 2)) // self.layers

    def adapter(self, rank: int) -> int:
        """Parameters of low-rank adapters on all linear layers but the head."""
        return rank * self.linear


def adaptable(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """The linear layers of a causal LM but its head, each with the last part of its name, such as q_proj."""
    head = model.get_output_embeddings()
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear) and part is not head:
            yield name.rpartition(".")[2], part


@lru_cache
def model_shape(path: str, setting: str = "--policy") -> ModelShape:
    """The shape of a model.

    Args:
        path: directory or hub id of a Hugging Face causal LM.
        setting: that names it, for the error.

    Raises:
        ConfigError: if its config cannot be read.
    """
    try:
        config: Any = AutoConfig.from_pretrained(path)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model {path!r}, whose config.json does not load: {error}",
            "a directory or hub id of a Hugging Face causal LM",
            change=setting,
        ) from error
    text = config.get_text_config()
    heads = text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    return ModelShape(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        vocabulary=text.vocab_size,
        kv_width=(getattr(text, "num_key_value_heads", None) or heads) * head_size,
        tied=bool(config.tie_word_embeddings),
        linear=sum(part.in_features + part.out_features for _, part in adaptable(model)),
    )
