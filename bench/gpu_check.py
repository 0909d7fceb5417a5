"""What runs on one GPU, in one table: `make gpu-check`, at most ten minutes on 80 GB.

The tests marked gpu; then CAPO on a random policy of the shape of Qwen2.5-0.5B with vLLM compiled, asleep while the
policy trains: with a judge by rule, with the policy as its own judge, and with adapters and the frozen policy below
them as the judge. Beside each peak of memory stands what `capo plan` said of it. `--cpu` runs the same on a small
policy without a GPU, to see that this script works.
"""

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from capo_lit.arithmetic.judge_model import write_initial_judge
from capo_lit.cli.compose import CONFIGS

_GPU = {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14}
_CPU = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
_STEPS = 6
_LIMIT_S = {True: 240.0, False: 900.0}  # with a GPU, and without
_JUDGE = [
    *("--critique.judge", "capo_lit.GenPRM", "--critique.judge.engine", "capo_lit.PolicyEngine"),
    *("--critique.judge.k", "2", "--critique.judge.sampling.max_tokens", "64", "--critique.max_abstain_frac", "1.0"),
    *("--rollout.engine.max_model_len", "1024"),
]
_ADAPTERS = [*_JUDGE, "--critique.judge.engine.weights", "initial", "--model.lora_rank", "8"]
_SHOWN = {
    "time/step_s": "seconds a step",
    "time/sync_s": "seconds a push",
    "rollout/tokens_per_s": "tokens/s sampled",
    "policy/train_tokens_per_s": "tokens/s trained",
    "policy/engine_logp_gap": "engine - trainer logprob, mean",
    "policy/engine_logp_gap_max": "engine - trainer logprob, max",
}


def write_policy(folder: Path, sizes: dict[str, int]) -> Path:
    """A random Qwen2 with the pocket judge's tokenizer, which has a chat template: the policy is its own judge too."""
    write_initial_judge(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config(
        **sizes,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def used_gib(process: psutil.Process, gpu: bool) -> float:
    """Memory in use: of the first GPU, by whoever; without one, by a process."""
    if not gpu:
        return process.memory_info().rss / 2**30
    query = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(query, capture_output=True, text=True, check=True).stdout) / 1024


def run_fit(words: list[str], gpu: bool, log: Path) -> tuple[float, float]:
    """Run `capo fit`; returns its seconds and the highest memory seen, GiB."""
    started, peak = time.monotonic(), 0.0
    with log.open("w") as out:
        job = subprocess.Popen([sys.executable, "-m", "capo_lit.cli", "fit", *words], stdout=out, stderr=out)
        while job.poll() is None:
            if time.monotonic() - started > _LIMIT_S[gpu]:
                job.kill()
            try:
                peak = max(peak, used_gib(psutil.Process(job.pid), gpu))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.2)
    if job.wait() != 0:
        raise SystemExit(f"capo fit ended with {job.returncode}; {log} says why:\n{log.read_text()[-2000:]}")
    return time.monotonic() - started, peak


def medians(run: Path) -> dict[str, float]:
    """Medians of what a run logged, without its first two steps."""
    rows = list(csv.DictReader((run / "csv/version_0/metrics.csv").open()))
    found = {}
    for name in _SHOWN:
        values = sorted([float(row[name]) for row in rows if row.get(name)][2:])
        found[name] = values[len(values) // 2]
    return found


def check(name: str, more: list[str], policy: Path, out: Path, gpu: bool) -> dict[str, float]:
    """One run of CAPO, and what it took."""
    words = ["--config", str(CONFIGS / "quickstart.yaml")]
    words += ["--config", str(CONFIGS / "hardware" / "gpu1.yaml")] if gpu else []
    words += ["--policy", str(policy), "--trainer.default_root_dir", str(out / name), *more]
    words += ["--trainer.max_steps", str(_STEPS), "--trainer.limit_val_batches", "0", "--validate_first", "false"]
    plan = subprocess.run([sys.executable, "-m", "capo_lit.cli", "plan", *words], capture_output=True, text=True)
    planned = [float(word) for word in plan.stdout.split("in all")[1].split() if word.replace(".", "", 1).isdigit()]
    seconds, peak = run_fit(words, gpu, out / f"{name}.log")
    figures = {"seconds in all": seconds, "peak memory, GiB": peak, "planned at most, GiB": max(planned[:2])}
    return figures | {_SHOWN[metric]: value for metric, value in medians(out / name).items()}


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="a small policy, and no GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    args = parser.parse_args()
    gpu, out = not args.cpu, args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    if gpu:
        tests = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
        print("tests marked gpu:", "passed" if subprocess.run(tests, check=False).returncode == 0 else "FAILED")
    policy = write_policy(out / "policy", _GPU if gpu else _CPU)
    arms = {"rule": [], "own-judge": _JUDGE, "adapters": _ADAPTERS}
    runs = {name: check(name, more, policy, out, gpu) for name, more in arms.items()}
    (out / "table.json").write_text(json.dumps(runs, indent=1))
    print(f"| | {' | '.join(runs)} |\n|---|{'---:|' * len(runs)}")
    for row in runs["rule"]:
        print(f"| {row} | {' | '.join(f'{run[row]:.4g}' for run in runs.values())} |")


if __name__ == "__main__":
    main()
