"""A random Llama over bytes: it says nonsense, and can say anything, so that a schema makes verdicts of it."""

import json
from pathlib import Path

from tests.support.builders import tiny_llama
from tests.support.byte_tokenizer import byte_tokenizer

# Bounded everywhere, so that a model of noise comes to its end; SOLUTION in tests/support/judging.py has three steps.
SCHEMA = {
    "type": "object",
    "properties": {
        "analysis": {"type": "string", "maxLength": 24},
        "wrong_steps": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2}, "maxItems": 2},
    },
    "required": ["analysis", "wrong_steps"],
    "additionalProperties": False,
}


def build(folder: Path, seed: int = 0, chat: bool = True) -> Path:
    """Write model and tokenizer."""
    tokenizer = byte_tokenizer() if chat else byte_tokenizer(chat=None)
    tokenizer.save_pretrained(folder)
    tiny_llama(
        folder,
        vocab=len(tokenizer),
        seed=seed,
        hidden_size=64,
        intermediate_size=128,
        max_position_embeddings=4096,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return folder


def write_template(path: Path, schema: bool = True) -> Path:
    """A short critique template, with or without the schema."""
    head = f"schema: {json.dumps(SCHEMA)}\n\n" if schema else ""
    path.write_text(f"{head}{{problem}}\n{{steps}}\nJSON:")
    return path
