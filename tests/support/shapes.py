"""Folders that hold the config.json of published models, and no weights: their sizes are facts."""

from pathlib import Path

from transformers import LlamaConfig, Qwen2Config

_QWEN = {"num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True}
_SIZES = {
    "qwen2.5_1.5b": (Qwen2Config, {**_QWEN, "num_attention_heads": 12}, (1536, 8960, 28)),
    "llama3.2_3b": (
        LlamaConfig,
        {"num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True},
        (3072, 8192, 28),
    ),
    "qwen2.5_7b": (
        Qwen2Config,
        {"num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152_064, "tie_word_embeddings": False},
        (3584, 18_944, 28),
    ),
    "qwen2.5_32b": (
        Qwen2Config,
        {"num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152_064, "tie_word_embeddings": False},
        (5120, 27_648, 64),
    ),
}


def write_shape(folder: Path, name: str) -> str:
    """Write the config of a published model; returns its folder."""
    kind, more, (hidden, intermediate, layers) = _SIZES[name]
    sizes = {"hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers}
    kind(**more, **sizes).save_pretrained(folder / name)
    return str(folder / name)
