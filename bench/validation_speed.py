"""Tokens per second of lm-eval's generate_until: our engine in vLLM against lm-eval's own transformers backend.

python bench/validation_speed.py [--policy FOLDER] [--data gsm8k/test.jsonl] [--rows 16] [--shots 2] [--tokens 64]

Both answer the same requests greedily, in one process and with as many threads, one after the other; each has answered
one request before its clocks start. lm-eval's backend runs once per batch size, and is judged by its best. CPU seconds
are those of all threads, and change less when other programs run beside. The requests are word problems behind worked
examples, as in few-shot GSM8K: from a file with fields question and answer, or made up.
"""

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the capo command does; a waiting thread burns no CPU seconds

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM

from capo_lit.cli import smollm2
from capo_lit.data.rows import read_rows
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.evaluation.benchmarks.model import EngineLM


def problems(data: Path | None, count: int) -> list[tuple[str, str]]:
    """Questions with their solutions."""
    if data is not None:
        return [(str(row["question"]), str(row["answer"])) for _, row in islice(read_rows(data), count)]
    numbers = [(3 + 5 * n % 17, 2 + 7 * n % 23, 1 + 3 * n % 11) for n in range(count)]
    return [
        (
            f"Tom has {a} boxes with {b} apples each. He eats {c} of the apples. How many apples are left?",
            f"There are {a} * {b} = {a * b} apples in all boxes.\nTom eats {c}: {a * b} - {c} = {a * b - c}.\n"
            f"#### {a * b - c}",
        )
        for a, b, c in numbers
    ]


def requests(rows: Sequence[tuple[str, str]], shots: int, tokens: int) -> list[Instance]:
    """One request per row after the first `shots`, which stand before each as examples."""
    examples = "".join(f"Question: {question}\nAnswer: {answer}\n\n" for question, answer in rows[:shots])
    arguments = {"until": ["Question:"], "do_sample": False, "max_gen_toks": tokens}
    return [
        Instance("generate_until", {}, (f"{examples}Question: {question}\nAnswer:", arguments), 0, ("gsm8k", place, 1))
        for place, (question, _) in enumerate(rows[shots:])
    ]


@dataclass(frozen=True)
class Run:
    """What one backend did."""

    answers: list[str]
    tokens: int
    wall: float
    cpu: float

    def __str__(self) -> str:
        return (
            f"{self.tokens:6} tokens, {self.wall:6.1f} s wall, {self.cpu:6.1f} s CPU: "
            f"{self.tokens / self.wall:6.1f} tokens/s, {self.tokens / self.cpu:6.1f} per CPU second"
        )


def measure(lm: TemplateLM, asked: list[Instance]) -> Run:
    """Answer all requests, after one that warms up."""
    lm.generate_until([Instance("generate_until", {}, ("Hello", {"until": [], "max_gen_toks": 4}), 0, ("warm", 0, 1))])
    wall, cpu = time.perf_counter(), time.process_time()
    answers = lm.generate_until(asked)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return Run(answers, sum(len(lm.tok_encode(answer)) for answer in answers), wall, cpu)


def main() -> None:
    """Measure, and print one line per backend and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", help="folder of a model; SmolLM2-135M-Instruct by default")
    parser.add_argument("--data", type=Path, help="jsonl with question and answer; made up by default")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--shots", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16], help="of lm-eval's backend")
    args = parser.parse_args()
    policy = args.policy or str(smollm2.prepare())
    asked = requests(problems(args.data, args.shots + args.rows), args.shots, args.tokens)

    engine = VLLMEngine(policy, dtype="float32", max_model_len=2048, max_num_seqs=args.rows, kv_cache_gib=1.0)
    ours = measure(EngineLM(engine), asked)
    cached = f"{engine.cached_tokens} of {engine.prompt_tokens} prompt tokens from the prefix cache"
    engine.close()
    print(f"{len(asked)} requests, {torch.get_num_threads()} threads, fp32", flush=True)
    print(f"EngineLM over VLLMEngine {ours} ({cached})", flush=True)
    theirs = []
    for batch in args.batches:
        backend = HFLM(policy, device="cpu", dtype="float32", batch_size=batch, max_length=2048)
        theirs.append(measure(backend, asked))
        same = sum(a == b for a, b in zip(ours.answers, theirs[-1].answers, strict=True))
        print(f"lm-eval hf, batch {batch:<6} {theirs[-1]} ({same} of {len(asked)} answers the same)", flush=True)
    wall = ours.tokens / ours.wall / max(run.tokens / run.wall for run in theirs)
    cpu = ours.tokens / ours.cpu / max(run.tokens / run.cpu for run in theirs)
    print(f"ratio to lm-eval's best: {wall:.1f} in wall time, {cpu:.1f} in CPU time")


if __name__ == "__main__":
    main()
