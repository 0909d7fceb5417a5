"""What does sampling one step ahead hide, does `capo plan --split` foresee it, and does the policy learn as well?

    .venv/bin/python bench/overlap.py time [--seconds 2] [--steps 8]
    .venv/bin/python bench/overlap.py learn [--seeds 5] [--steps 80]   # after `capo prepare quickstart`

`time`: CAPO on the built-in arithmetic, with a loopback server that takes a fixed time per critique for a judge. A
"GPU" is one core of this machine, which nobody else has: the trainer's process is bound to it, and a real vLLM server
to another. From a run on one core, which samples and trains in turn, `capo plan --split` foresees three ways to use
two: both do everything, one trains and one samples, or samples ahead. All are run. Hidden is what with ahead 1 is not
waited for any more, as a share of what rollouts and judge take with ahead 0. The policy is wider than the quickstart's,
so that its update takes about as long as they do: nothing can hide behind an update that is shorter.

`learn`: the quickstart with its rule for a judge, with ahead 0 and 1, from the same start; avg@k on the validation set.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from parts import judge_server

from capo_lit.arithmetic.model import build_tokenizer
from capo_lit.cli.process import last_error
from capo_lit.engines.servers.launch import OwnServer, ServerSettings
from capo_lit.engines.servers.plugin import FILES
from capo_lit.records.curves import Curve, read_curves
from capo_lit.records.runs import read_run
from capo_lit.training.split import Split, measured_rates, step_seconds

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"
TIMES = ("time/step_s", "time/rollout_s", "time/critique_s", "time/update_s", "time/ahead_wait_s")
WARM_UP = 2
LIMIT_S = 1800
"""Of one run, seconds."""
NEVER = 10**6


@contextmanager
def bound(cores: set[int]) -> Iterator[None]:
    """What is started within it stays on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def rollout_server(model: Path, folder: Path, cores: set[int]) -> Iterator[str]:
    """A vLLM server over a model of the arithmetic, on these cores."""
    settings = ServerSettings(str(model), "float32", 200, 64, 0.2, 0.9, FILES)
    share = (os.cpu_count() or 1) // len(cores)
    own = OwnServer(settings, 0, share, None, None, folder / "server.log")
    with bound(cores):
        own.start()
    try:
        yield own.url
    finally:
        own.stop()


def served(url: str) -> dict[str, object]:
    """Settings of a run that samples there."""
    return {
        "rollout.engine": "capo_lit.VLLMServers", "rollout.engine.servers": f"[{url}]",
        "rollout.engine.dtype": "float32", "rollout.engine.max_model_len": 200,
    }  # fmt: skip


def write_wide_model(folder: Path) -> Path:
    """An untrained Llama over the arithmetic's characters, with the quickstart's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1152, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=6, max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def fit(settings: Mapping[str, object], folder: Path, cores: Sequence[set[int]]) -> dict[str, Curve]:
    """`capo fit` with one process for each entry of `cores`, bound to them; what it logged.

    Raises:
        SystemExit: if a process fails, or does not end.
    """
    given = {"trainer.default_root_dir": folder, "trainer.devices": len(cores), **settings}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "capo_lit.cli", "fit", "--config", str(CONFIG), *words]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "NODE_RANK": "0"}
    folder.mkdir(parents=True)
    processes: list[subprocess.Popen[bytes]] = []
    for rank, own in enumerate(cores):
        env = os.environ | {"OMP_NUM_THREADS": str(len(own))}
        env |= places | {"LOCAL_RANK": str(rank)} if len(cores) > 1 else {}
        with bound(own), (folder / f"log{rank}").open("wb") as log:
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))
    end = time.monotonic() + LIMIT_S
    try:
        for rank, process in enumerate(processes):
            if process.wait(max(1.0, end - time.monotonic())):
                raise SystemExit(f"capo fit failed: {last_error(folder / f'log{rank}')}")
    except subprocess.TimeoutExpired:
        raise SystemExit(f"capo fit did not end in {LIMIT_S} s: {folder}") from None
    finally:
        for process in processes:
            process.kill()
    return read_curves(folder)


def measure_time(args: argparse.Namespace, folder: Path) -> None:
    """Print the times of all four runs, what was foreseen of three, and what is hidden."""
    first, second, *_ = [{core} for core in sorted(os.sched_getaffinity(0))]
    settings: dict[str, object] = {
        "policy": write_wide_model(folder / "model"), "trainer.max_steps": args.steps + WARM_UP,
        "trainer.val_check_interval": NEVER, "checkpoint.every_n_steps": NEVER, "validate_first": "false",
        "rollout.sampling.max_tokens": 64, "critique.judge": "capo_lit.GenPRM", "critique.judge.init_args.k": 1,
        "critique.judge.init_args.vote": "union",
    }  # fmt: skip
    with judge_server(args.seconds) as url:
        judge = {"model": "slow", "base_urls": [url], "max_concurrency": 512}
        asked = {"class_path": "capo_lit.HTTPEngine", "init_args": judge}
        settings["critique.judge.init_args.engine"] = json.dumps(asked)
        alone = medians("one core", fit(settings, folder / "alone", [first]))
        plain = {"rollout.engine.max_num_seqs": 64}
        both = medians("two cores do all", fit(settings | plain, folder / "both", [first, second]))
        with rollout_server(folder / "model", folder, second) as server:
            there = settings | served(server)
            turns = medians("one trains, one samples", fit(there, folder / "turns", [first]))
            there |= {"rollout.ahead": 1}
            ahead = medians("and samples ahead", fit(there, folder / "ahead", [first]))
    found = read_run(folder / "alone")
    rollouts = found.config["data.init_args.prompts_per_step"] * found.config["rollout.group_size"]
    rates = measured_rates(found.curves, 1, rollouts, False, folder / "alone")
    print(f"\nrates of one core: {rates}\n")
    ways = ((Split(2), both), (Split(1, 1), turns), (Split(1, 1, ahead=True), ahead))
    for split, row in ways:
        foreseen, took = step_seconds(rates, split, rollouts, judge_beside=True), row["time/step_s"]
        print(f"{split}: foreseen {foreseen:.2f} s, took {took:.2f} s: {foreseen / took - 1:+.0%}")
    exposed, left = turns["time/rollout_s"] + turns["time/critique_s"], ahead["time/ahead_wait_s"]
    faster = turns["time/step_s"] / ahead["time/step_s"]
    print(f"\nrollouts and judge take {exposed:.2f} s of a step of {turns['time/step_s']:.2f} s in turn")
    print(
        f"ahead, {left:.2f} s are left to wait for: {1 - left / exposed:.0%} hidden, steps {faster:.2f} times as fast"
    )
    print(f"(one core alone: {alone['time/step_s']:.2f} s)")


def medians(name: str, curves: Mapping[str, Curve]) -> dict[str, float]:
    """Medians of a run's times after the warm-up, printed too."""
    found: dict[str, float] = {}
    for metric in TIMES:
        values = [value for step, value in sorted(curves.get(metric, {}).items())][WARM_UP:]
        found[metric] = statistics.median(values) if values else 0.0
    said = "  ".join(f"{metric.split('/')[1]} {value:.2f}" for metric, value in found.items())
    print(f"{name}: medians of {len(curves['time/step_s']) - WARM_UP} steps: {said}", flush=True)
    return found


def measure_learning(args: argparse.Namespace, folder: Path) -> None:
    """Print avg@k after training, of both, by seed."""
    found: dict[int, list[float]] = {0: [], 1: []}
    cores = os.sched_getaffinity(0)
    with rollout_server(args.policy, folder, cores) as server:
        for seed in range(args.seeds):
            for ahead in (0, 1):
                settings = served(server) | {
                    "policy": args.policy, "seed_everything": seed, "trainer.max_steps": args.steps,
                    "trainer.val_check_interval": args.steps, "validate_first": "false",
                    "checkpoint.every_n_steps": NEVER, "rollout.ahead": ahead,
                }  # fmt: skip
                started = time.perf_counter()
                curve = fit(settings, folder / f"seed{seed}ahead{ahead}", [cores])["val/avg_at_k"]
                found[ahead].append(curve[max(curve)])
                took = time.perf_counter() - started
                print(f"seed {seed} ahead {ahead}: val/avg_at_k {found[ahead][-1]:.3f} ({took:.0f} s)", flush=True)
    for ahead, values in found.items():
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"ahead {ahead}: mean {statistics.mean(values):.3f}, deviation {spread:.3f}, {len(values)} seeds")
    gaps = [one - other for one, other in zip(found[1], found[0], strict=True)]
    print(f"ahead 1 minus ahead 0, by seed: {', '.join(f'{gap:+.3f}' for gap in gaps)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "learn"))
    parser.add_argument("--seconds", type=float, default=2.0, help="of one critique")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--policy", default="runs/quickstart/sft/policy", type=Path, help="to start from, of `learn`")
    args = parser.parse_args()
    args.steps = args.steps or {"time": 8, "learn": 80}[args.what]
    with tempfile.TemporaryDirectory() as name:
        {"time": measure_time, "learn": measure_learning}[args.what](args, Path(name))


if __name__ == "__main__":
    main()
