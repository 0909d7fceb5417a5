"""CAPO against GRPO on the quickstart's task, over SFT seeds and RL seeds, with the quickstart's own configs.

    .venv/bin/python bench/quickstart_seeds.py --regime standard --sft_seeds 0 1 2 --rl_seeds 0 1 2 3

Writes results.json and a markdown table; runs that are finished are not repeated. Two runs share the machine.
"""

import argparse
import json
import statistics
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from capo_lit.arithmetic.model import write_initial_model
from capo_lit.cli.quickstart_runs import REGIMES, arm_name, arms, cold_start, fit
from capo_lit.records.curves import read_curves

METRICS = {"val/avg_at_k": "avg@8", "val/greedy_accuracy": "greedy", "val/step_error_frac": "step error"}


def start(root: Path, regime: str, seed: int) -> Path:
    """The SFT policy of a seed; trained if it is not there."""
    folder = root / f"sft{seed}"
    policy = folder / "sft" / "policy"
    return policy if policy.exists() else cold_start(REGIMES[regime], folder, seed)[0]


def run_arm(root: Path, policy: Path, name: str, config: list[str], seed: int) -> None:
    """One RL run; skipped if it is finished."""
    folder = root / policy.parents[1].name / f"{arm_name(name)}-seed{seed}"
    if not (folder / "policy").exists():
        fit(config, folder, policy, seed, ["--ckpt_path", "last"])


def curve(root: Path, sft: int, name: str, rl: int, metric: str) -> dict[int, float]:
    """One metric of one run by step."""
    return read_curves(root / f"sft{sft}" / f"{arm_name(name)}-seed{rl}")[metric]


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regime", choices=sorted(REGIMES), default="standard")
    parser.add_argument("--sft_seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rl_seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--root", type=Path, default=None)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    args = parser.parse_args()
    root = args.root or Path("runs") / f"bench-{args.regime}"
    for seed in args.sft_seeds:  # here, since transformers cannot be imported by two threads at once
        write_initial_model(root / f"sft{seed}" / "initial", seed)
    with ThreadPoolExecutor(args.workers) as pool:
        policies = list(pool.map(lambda seed: start(root, args.regime, seed), args.sft_seeds))
        jobs = [
            (root, policy, name, config, seed)
            for policy in policies
            for seed in args.rl_seeds
            for name, config in arms(REGIMES[args.regime]).items()
        ]
        list(pool.map(lambda job: run_arm(*job), jobs))
    table, results = tabulate(root, args)
    (root / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (root / "results.md").write_text(table)
    print(table)


def tabulate(root: Path, args: argparse.Namespace) -> tuple[str, dict]:
    """Means and standard deviations over RL seeds, per SFT seed and over all."""
    results: dict = {}
    lines = [
        "| SFT seed | arm | step | " + " | ".join(METRICS.values()) + " |",
        "|---|---|---:|" + "---:|" * len(METRICS),
    ]
    for sft in [*args.sft_seeds, "all"]:
        for name in arms(REGIMES[args.regime]):
            seeds = args.sft_seeds if sft == "all" else [sft]
            for step in sorted(curve(root, seeds[0], name, args.rl_seeds[0], "val/avg_at_k")):
                cells = []
                for metric, label in METRICS.items():
                    values = [curve(root, s, name, r, metric)[step] for s in seeds for r in args.rl_seeds]
                    results.setdefault(f"{sft}/{name}/{step}", {})[label] = values
                    spread = statistics.stdev(values) if len(values) > 1 else 0.0
                    cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}")
                lines.append(f"| {sft} | {name} | {step} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n", results


if __name__ == "__main__":
    main()
