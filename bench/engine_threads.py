"""Does a vLLM engine in the process slow down the training beside it? Prints training-step times around it, in one run.

python bench/engine_threads.py [--steps 20]

The first and last columns are the same work in the same process: without vLLM, and with an engine that has generated.
The same is then done once more, so that a machine that was busy meanwhile shows.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request, as_completed
from capo_lit.engines.vllm import VLLMEngine

WORDS, ROWS, RESPONSE = 48, 64, 34


def tiny_policy(folder: Path) -> LlamaForCausalLM:
    """The size of the quickstart's policy: 2 layers, hidden 128."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(WORDS)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0").save_pretrained(folder)
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = LlamaConfig(vocab_size=WORDS, max_position_embeddings=256, tie_word_embeddings=True, **sizes, **ids)
    policy = LlamaForCausalLM(config)
    policy.save_pretrained(folder)
    return policy


class Clock:
    """Times training steps of one policy."""

    def __init__(self, policy: LlamaForCausalLM, steps: int) -> None:
        self._policy, self._steps = policy, steps
        self._optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
        self._ids = torch.randint(0, WORDS, (ROWS, 60))

    def measure(self, when: str) -> None:
        """Print the median and the least of the step times, wall and CPU, in milliseconds."""
        wall, cpu = [], []
        for _ in range(self._steps):
            started, busy = time.perf_counter(), time.process_time()
            self._policy(input_ids=self._ids, labels=self._ids).loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            wall.append(1e3 * (time.perf_counter() - started))
            cpu.append(1e3 * (time.process_time() - busy))
        print(
            f"{when:34} wall median {statistics.median(wall):8.1f} least {min(wall):7.1f} ms"
            f"   cpu median {statistics.median(cpu):8.1f} ms   threads {torch.get_num_threads()}"
            f"   cores {len(os.sched_getaffinity(0))}",
            flush=True,
        )


def rollout(engine: VLLMEngine) -> None:
    """Print the tokens per second of one rollout batch."""
    asked = [Request(f"r{i}", (i % 8, 5, 6), Sampling(max_tokens=RESPONSE), i) for i in range(ROWS)]
    started = time.perf_counter()
    tokens = sum(len(completion.ids) for completion in as_completed(engine, asked))
    seconds = time.perf_counter() - started
    print(f"  rollout {ROWS} x {RESPONSE}: {tokens / seconds:8.0f} tokens/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    with tempfile.TemporaryDirectory() as folder:
        policy = tiny_policy(Path(folder))
        clock = Clock(policy, steps)
        clock.measure("warm-up, no vLLM")
        clock.measure("no vLLM")
        engine = VLLMEngine(folder, dtype="float32", max_model_len=128, kv_cache_gib=0.25)
        started = time.perf_counter()
        next(iter(as_completed(engine, [Request("first", (1, 2), Sampling(max_tokens=1), 0)])))
        print(f"  engine start, import included: {time.perf_counter() - started:.1f} s", flush=True)
        clock.measure("engine started")
        for version in range(1, 4):
            rollout(engine)
            started = time.perf_counter()
            engine.load_weights(policy.named_parameters(), version)
            print(f"  push: {1e3 * (time.perf_counter() - started):.1f} ms", flush=True)
            clock.measure(f"engine generated, pushed {version} times")
        engine.close()
        clock.measure("engine closed")


if __name__ == "__main__":
    main()
