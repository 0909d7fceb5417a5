"""Adapters in vLLM's slot against adapters merged into its weights, on a random policy of 4 layers like SmolLM2-135M's.

    .venv/bin/python bench/adapters.py [--rank 16] [--rounds 3] [--dtype bfloat16]

Printed for both, measured in turn in one process: seconds a push, and tokens a second of 16 rollouts of one prompt. And
how much of a small update arrives in weights of that dtype: every B is one AdamW step of size `lr` away from zero, and
the share is that of B A in what the engine's weights have changed by (least squares).
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request, as_completed
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.training.lora import adapters_of, add_adapters, base_weights, merged_weights

VOCABULARY, PROMPT, RESPONSE, ROWS = 4096, 128, 32, 16
SIZES = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9}
RATES = (1e-5, 1e-4, 1e-3)


def write_policy(folder: Path) -> Path:
    """Random weights, which bfloat16 holds as they are, like those of a published model."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = LlamaConfig(
        vocab_size=VOCABULARY, num_key_value_heads=3, max_position_embeddings=512, tie_word_embeddings=True,
        initializer_range=0.04, **SIZES, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def set_update(policy: Any, lr: float, seed: int) -> None:
    """Every B as AdamW's first step would leave it: lr up or down."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(lr * torch.randn(parameter.shape, generator=generator).sign())


class Side:
    """One way to push.

    Args:
        engine: not started.
        policy: with adapters.
        slot: push adapters alone.
    """

    def __init__(self, engine: VLLMEngine, policy: Any, slot: bool) -> None:
        self.engine, self._policy, self._slot, self._version = engine, policy, slot, 0
        if slot:
            engine.hold_adapters(adapters_of(policy))

    def push(self) -> float:
        """Bring the policy's weights; returns seconds."""
        started, self._version = time.perf_counter(), self._version + 1
        if self._slot:
            base = base_weights(self._policy) if self._version == 1 else None
            self.engine.load_adapters(adapters_of(self._policy), self._version, base)
        else:
            self.engine.load_weights(merged_weights(self._policy), self._version)
        return time.perf_counter() - started

    def rate(self) -> float:
        """Tokens a second of the rollouts of one prompt."""
        prompt = tuple(range(7, 7 + PROMPT))
        asked = [Request(f"r{row}", prompt, Sampling(max_tokens=RESPONSE), row) for row in range(ROWS)]
        started = time.perf_counter()
        tokens = sum(len(reply.ids) for reply in as_completed(self.engine, asked))
        return tokens / (time.perf_counter() - started)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_policy(Path(temporary) / "policy")
        policy = add_adapters(LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32), args.rank, seed=0)
        sides = {
            name: Side(VLLMEngine(str(folder), args.dtype, 512, ROWS, 0.3), policy, name == "slot")
            for name in ("merged", "slot")
        }
        measure_updates(policy, getattr(torch, args.dtype))
        set_update(policy, 1e-3, seed=3)
        measure_speed(sides, args.rounds)
        for side in sides.values():
            side.engine.close()


def measure_speed(sides: dict[str, Side], rounds: int) -> None:
    """Seconds a push, and tokens a second."""
    first = {name: side.push() for name, side in sides.items()}
    for side in sides.values():
        side.rate()
    pushes: dict[str, list[float]] = {name: [] for name in sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            pushes[name].append(side.push())
            rates[name].append(side.rate())
    for name in sides:
        push, rate = statistics.median(pushes[name]), statistics.median(rates[name])
        print(
            f"{name:6}  start and first push {first[name]:.2f} s, then {push:.3f} s a push; {rate:.1f} tokens/s",
            flush=True,
        )


def measure_updates(policy: Any, dtype: torch.dtype) -> None:
    """How much of an update arrives: the part of B A that is in an engine's weights, which are of `dtype`."""
    for lr in RATES:
        set_update(policy, lr, seed=2)
        adapters, base = adapters_of(policy), dict(base_weights(policy))
        whole, arrived = 0.0, {"merged": 0.0, "slot": 0.0}
        for name, (a, b) in adapters.pairs.items():
            update, weights = adapters.scale * b @ a, base[f"{name}.weight"]
            seen = {
                "merged": (weights + update).to(dtype).float() - weights,
                "slot": adapters.scale * b.to(dtype).float() @ a.to(dtype).float(),
            }
            whole += float((update * update).sum())
            for side, change in seen.items():
                arrived[side] += float((change * update).sum())
        shown = ", ".join(f"{side} {100 * part / whole:.0f} %" for side, part in arrived.items())
        print(f"an update of {lr:g} arrives: {shown}", flush=True)


if __name__ == "__main__":
    main()
