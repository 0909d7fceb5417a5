"""The same GRPO step here and in TRL, side by side on this machine: seconds, CPU seconds, tokens/s, peak memory.

    .venv/bin/python bench/against_trl.py [--sizes short long arithmetic] [--rounds 2] [--steps 5] [--out FILE.md]

Both sides train the same policy (SmolLM2-135M-Instruct by `capo prepare smollm2`; for `arithmetic` the quickstart's
random start) in fp32 on the same number of prompts, rollouts and new tokens, with half of the rewards 1 by a coin, no
KL term, AdamW and no gradient checkpointing. Ours samples by vLLM, TRL's GRPOTrainer by transformers, which is what it
does where there is no vLLM. SmolLM2's end token is replaced by one that it never writes, so that all its responses have
full length. Each side runs in processes of its own, TRL in an environment of its own that this script makes from the
versions of requirements/cpu.lock, without vLLM; the two take turns, `--rounds` times. The first two steps of each
process are left out. Memory is the proportional share (PSS) of the whole process tree, read ten times a second.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 2
LIMIT_S = 1800
"""Of one process, seconds."""
MARK = "STEP "
NEVER = 10**6
FILLER = "A farmer has 3 barns with 14 hens each and sells every fifth hen. How many hens are left? "


@dataclass(frozen=True)
class Size:
    """Of one step.

    Attributes:
        prompts: of a step.
        rollouts: of each prompt.
        words: a prompt is so many words long.
        new: tokens of a response.
    """

    prompts: int
    rollouts: int
    words: int
    new: int


SIZES = {"short": Size(2, 4, 40, 64), "long": Size(1, 8, 100, 256), "arithmetic": Size(8, 8, 0, 40)}


# What the two sides are given


def write_inputs(folder: Path, name: str, size: Size) -> None:
    """A policy and problems."""
    from capo_lit.arithmetic.model import write_initial_model
    from capo_lit.arithmetic.task import ArithmeticSource
    from capo_lit.cli.smollm2 import prepare

    policy = folder / "policy"
    if name == "arithmetic":
        write_initial_model(policy)
        texts = [problem.problem for problem in ArithmeticSource(size=64).load()]
    else:
        shutil.copytree(prepare(), policy)
        never_ending(policy)
        texts = [f"{index}. {' '.join((FILLER * 20).split()[: size.words])}" for index in range(64)]
    rows = [json.dumps({"problem": text, "answer": "1"}) for text in texts]
    (folder / "problems.jsonl").write_text("\n".join(rows) + "\n")


def never_ending(policy: Path) -> None:
    """Make a token that SmolLM2 never writes the one that ends a response."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(3)
    tokenizer.save_pretrained(policy)
    config = json.loads((policy / "config.json").read_text()) | {"eos_token_id": tokenizer.eos_token_id}
    (policy / "config.json").write_text(json.dumps(config))
    GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id).save_pretrained(policy)


def trl_environment() -> Path:
    """The Python of an environment with TRL and without vLLM, made at the first time."""
    from capo_lit.cli.smollm2 import cache_dir

    python = cache_dir() / "trl-environment" / "bin" / "python"
    done = python.parents[1] / "done"
    if not done.exists():
        print("making TRL's environment (minutes, once)", flush=True)
        lock = (ROOT / "requirements" / "cpu.lock").read_text().splitlines()
        wanted = [line for line in lock if line.startswith(("torch==", "transformers==", "trl==", "datasets=="))]
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        pip = [python, "-m", "pip", "-q", "--disable-pip-version-check", "install"]
        index = os.environ.get("TORCH_INDEX")
        first = [*pip, *(["--index-url", index] if index else []), "--no-deps"]
        subprocess.run([*first, *(line for line in wanted if line.startswith("torch=="))], check=True)
        subprocess.run([*pip, "-c", ROOT / "requirements" / "cpu.lock", *wanted], check=True)
        done.touch()
    return python


# The two sides, each in a process of its own


def tell(**figures: float) -> None:
    """One line for the parent."""
    print(MARK + json.dumps(figures), flush=True)


def cpu_seconds() -> float:
    """Of this process and those that it started, so far."""
    import psutil

    times = psutil.Process().cpu_times()
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:2])
    return total


def our_settings(folder: Path, size: Size, steps: int) -> dict[str, object]:
    """Of `capo fit`, over the quickstart's and GRPO's configs."""
    return {
        "policy": folder / "policy", "trainer.default_root_dir": folder / f"run-{time.time_ns()}",
        "data.train": "capo_lit.FileSource", "data.train.path": folder / "problems.jsonl",
        "data.val": "capo_lit.FileSource", "data.val.path": folder / "problems.jsonl",
        "data.prompts_per_step": size.prompts, "rollout.group_size": size.rollouts,
        "data.template": json.dumps({"style": "plain", "text": "{problem}"}),
        "rollout.sampling.max_tokens": size.new, "rollout.outcomes": "capo_lit.NoisyOutcomes",
        "rollout.outcomes.error_rate": 0.5, "rollout.engine.max_model_len": 512 if size.words else 128,
        "rollout.engine.dtype": "float32",
        "rollout.engine.max_num_seqs": 64, "model.optim.lr": 1e-6,
        "trainer.max_steps": steps, "trainer.val_check_interval": NEVER, "checkpoint.every_n_steps": NEVER,
        "validate_first": "false",
    }  # fmt: skip


def ours(folder: Path, size: Size, steps: int) -> None:
    """CapoModule as GRPO with VLLMEngine."""
    from lightning.pytorch import Callback, Trainer

    from capo_lit.cli.trainer import build

    class Told(Callback):
        cpu, wall = 0.0, 0.0

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self._tell(trainer)

        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            self._tell(trainer)

        def _tell(self, trainer: Trainer) -> None:
            now, cpu = time.perf_counter(), cpu_seconds()
            if self.wall:
                known = {name: float(value) for name, value in trainer.callback_metrics.items()}
                rollout, update = known["time/rollout_s"], known["time/update_s"]
                tokens = known["rollout/tokens"]
                tell(wall=now - self.wall, cpu=cpu - self.cpu, rollout=rollout, update=update, tokens=tokens)
            self.wall, self.cpu = now, cpu

    words = our_settings(folder, size, steps)
    flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    configs = [ROOT / "configs" / "quickstart.yaml", ROOT / "configs" / "algorithm" / "grpo.yaml"]
    cli = build([*(word for path in configs for word in ("--config", str(path))), *flags], run=False)
    cli.trainer.callbacks.insert(0, Told())
    cli.trainer.fit(cli.model, cli.datamodule)


def trl_config(folder: Path, size: Size, steps: int) -> Any:
    """As our settings."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(folder / "trl"), use_cpu=True, bf16=False, report_to="none", logging_steps=1, save_strategy="no",
        max_steps=steps, learning_rate=1e-6, num_generations=size.rollouts, max_completion_length=size.new,
        per_device_train_batch_size=size.prompts * size.rollouts, gradient_checkpointing=False, beta=0.0,
        temperature=1.0, disable_tqdm=True,
    )  # fmt: skip


def trls(folder: Path, size: Size, steps: int) -> None:
    """TRL's GRPOTrainer; runs in the environment without capo_lit."""
    import random

    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOTrainer

    coin, spent = random.Random(0), {"rollout": 0.0, "tokens": 0.0}

    def reward(completions: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        spent["tokens"] = float(sum(map(len, completion_ids)))
        return [float(coin.random() < 0.5) for _ in completions]

    class Timed(GRPOTrainer):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            made = super()._generate(*args, **kwargs)
            spent["rollout"] += time.perf_counter() - started
            return made

    class Told(TrainerCallback):
        wall, cpu = 0.0, 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if not self.wall:
                self.wall, self.cpu, spent["rollout"] = time.perf_counter(), cpu_seconds(), 0.0

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now, cpu = time.perf_counter(), cpu_seconds()
            wall, rollout = now - self.wall, spent["rollout"]
            tell(wall=wall, cpu=cpu - self.cpu, rollout=rollout, update=wall - rollout, tokens=spent["tokens"])
            self.wall, self.cpu, spent["rollout"] = now, cpu, 0.0

    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    config = trl_config(folder, size, steps)
    data = Dataset.from_list([{"prompt": row["problem"]} for row in rows])
    Timed(str(folder / "policy"), reward, config, train_dataset=data, callbacks=[Told()]).train()


SIDES = {"ours": ours, "TRL": trls}


# The parent


def tree_gib(pid: int) -> float:
    """Proportional memory of a process and those that it started, GiB."""
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        whole = psutil.Process(pid)
        for process in (whole, *whole.children(recursive=True)):
            with suppress(psutil.Error, FileNotFoundError):
                total += process.memory_full_info().pss
    return total / 2**30


def run_side(side: str, python: Path, folder: Path, name: str, steps: int) -> tuple[list[dict[str, float]], float]:
    """One process of a side: the figures of its steps after the warm-up, and its peak memory, GiB.

    Raises:
        SystemExit: if it fails, or does not end.
    """
    log = folder / f"{side}.log"
    command = [str(python), __file__, "--side", side, "--folder", str(folder), "--sizes", name, "--steps", str(steps)]
    peak, started = 0.0, time.monotonic()
    with log.open("wb") as out, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=out, text=True) as job:
        assert job.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(job.stdout or ()))
        reader.start()
        while job.poll() is None:
            peak = max(peak, tree_gib(job.pid))
            if time.monotonic() - started > LIMIT_S:
                job.kill()
            time.sleep(0.1)
        reader.join()
    if job.returncode:
        raise SystemExit(f"{side} ended with {job.returncode}:\n{log.read_text()[-3000:]}")
    told = [json.loads(line.removeprefix(MARK)) for line in lines if line.startswith(MARK)]
    return told[WARM_UP:], peak


def gemm_gflops() -> float:
    """What a float32 product of 1024 x 1024 matrices reaches here, GFLOP/s."""
    import torch

    one, other = torch.randn(1024, 1024), torch.randn(1024, 1024)
    times = []
    for _ in range(20):
        started = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - started)
    return 2 * 1024**3 / statistics.median(times) / 1e9


def table(name: str, size: Size, found: Mapping[str, Sequence[dict[str, float]]], peaks: Mapping[str, float]) -> str:
    """Medians of both sides, and how many times TRL's ours are."""

    def middle(side: str, figure: str) -> float:
        return statistics.median(row[figure] for row in found[side])

    def rate(side: str, phase: str) -> float:
        return statistics.median(row["tokens"] / row[phase] for row in found[side])

    rows: list[tuple[str, float, float]] = [
        ("seconds a step", middle("ours", "wall"), middle("TRL", "wall")),
        ("CPU seconds a step", middle("ours", "cpu"), middle("TRL", "cpu")),
        ("rollouts, seconds", middle("ours", "rollout"), middle("TRL", "rollout")),
        ("update, seconds", middle("ours", "update"), middle("TRL", "update")),
        ("sampled, tokens/s", rate("ours", "rollout"), rate("TRL", "rollout")),
        ("trained, tokens/s", rate("ours", "update"), rate("TRL", "update")),
        ("tokens a step", middle("ours", "tokens"), middle("TRL", "tokens")),
        ("peak memory, GiB", peaks["ours"], peaks["TRL"]),
    ]
    title = f"### {name}: {size.prompts} prompts x {size.rollouts} rollouts x {size.new} new tokens"
    lines = [title, "", "| | ours | TRL | TRL / ours |", "|---|---:|---:|---:|"]
    lines += [f"| {what} | {mine:.3g} | {theirs:.3g} | {theirs / mine:.2f} |" for what, mine, theirs in rows]
    steps = ", ".join(f"{len(rows)} steps of {side}" for side, rows in found.items())
    return "\n".join([*lines, "", f"Medians of {steps}."])


def compare(names: Sequence[str], rounds: int, steps: int) -> Iterator[str]:
    """The tables, one by one."""
    pythons = {"ours": Path(sys.executable), "TRL": trl_environment()}
    load = os.getloadavg()[0]
    yield f"{os.cpu_count()} cores, float32 GEMM {gemm_gflops():.0f} GFLOP/s, load {load:.1f} before the runs.\n"
    for name in names:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        peaks = dict.fromkeys(SIDES, 0.0)
        with tempfile.TemporaryDirectory() as folder:
            write_inputs(Path(folder), name, SIZES[name])
            for _ in range(rounds):
                for side, python in pythons.items():
                    rows, peak = run_side(side, python, Path(folder), name, steps + WARM_UP)
                    found[side] += rows
                    peaks[side] = max(peaks[side], peak)
        yield table(name, SIZES[name], found, peaks) + "\n"


def main() -> None:
    """Measure and print; with --side, be one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=2, help="of each side, in turn")
    parser.add_argument("--steps", type=int, default=5, help="of a round that are measured")
    parser.add_argument("--out", type=Path, help="file that gets the tables too")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        SIDES[args.side](args.folder, SIZES[args.sizes[0]], args.steps)
        return
    told: list[str] = []
    for part in compare(args.sizes, args.rounds, args.steps):
        print(part, flush=True)
        told.append(part)
    if args.out:
        args.out.write_text("\n".join(told))


if __name__ == "__main__":
    main()
