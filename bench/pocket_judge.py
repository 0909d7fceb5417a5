"""The pocket judge: train it, measure the steps it finds, and compare CAPO under it with CAPO under the rule and GRPO.

    .venv/bin/python bench/pocket_judge.py --rl_seeds 0 1 2 --jobs 2         # train, measure, compare
    .venv/bin/python bench/pocket_judge.py --rl_seeds                        # train and measure only
    .venv/bin/python bench/pocket_judge.py --judge some/policy --rl_seeds    # measure only

Writes measures.json, results.md and the runs. What is finished is not repeated and what was cut off is resumed. All
arms start from one policy.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, fields
from pathlib import Path
from typing import get_args

from capo_lit.arithmetic.judge import check_steps
from capo_lit.arithmetic.judge_model import write_initial_judge
from capo_lit.arithmetic.model import write_initial_model
from capo_lit.arithmetic.pocket_judge import measure_judge
from capo_lit.cli.quickstart_runs import JUDGE_SFT, REGIMES, arms, cold_start, fit
from capo_lit.core.votes import VoteRule
from capo_lit.evaluation.judging.step_scores import StepScores, step_scores
from capo_lit.genprm.base import step_texts
from capo_lit.records.curves import read_curves
from capo_lit.records.schema import read_records

METRICS = {"val/avg_at_k": "avg@8", "val/greedy_accuracy": "greedy", "val/step_error_frac": "step error"}
GENPRM = "quickstart_genprm.yaml"


def judged_steps(run: Path, first: int, end: int) -> list[tuple[list[float], frozenset[int]]]:
    """Step errors and truly wrong steps of the rollouts that a run trained on; none if it asked no judge."""
    table = read_records(run / "records", columns=["step", "problem", "text", "spans", "step_error"])
    found = []
    for row in table.to_pylist():
        if first <= row["step"] < end and row["step_error"] is not None:
            spans = [(span["start"], span["end"]) for span in row["spans"]]
            found.append((row["step_error"], check_steps(row["problem"], step_texts(row["text"], spans))))
    return found


def table(measures: dict[str, StepScores]) -> str:
    """The judge's figures, one line per vote."""
    names = [field.name for field in fields(StepScores)]
    lines = ["| vote | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += [
        f"| {vote} | " + " | ".join(f"{value:.3f}" for value in asdict(row).values()) + " |"
        for vote, row in measures.items()
    ]
    return "\n".join(lines) + "\n"


def plans(judge: Path, args: argparse.Namespace) -> dict[str, tuple[list[str], list[str]]]:
    """The config files and flags of every arm."""
    quickstart = arms(REGIMES["standard"])
    found: dict[str, tuple[list[str], list[str]]] = {"CAPO, rule": (quickstart["CAPO rule"], [])}
    for vote in args.votes:
        words = {"engine.init_args.model": str(judge), "vote": vote, "k": str(args.k)}
        # Only where fewer than k critiques may settle the vote are some of them held back.
        words["first_wave"] = {"majority": str(args.k // 2 + 1), "intersection": "1"}.get(vote, "null")
        words["sampling.temperature"] = str(args.temperature)
        if vote == "greedy":
            words |= {"k": "1", "sampling.temperature": "0"}
        flags = [word for key, value in words.items() for word in (f"--critique.judge.init_args.{key}", value)]
        found[f"CAPO, pocket judge, {vote}"] = ([GENPRM], flags)
    return found | {"GRPO": (quickstart["GRPO"], [])}


def run_folder(root: Path, name: str, seed: int) -> Path:
    """Where one run of an arm is kept."""
    return root / f"{name.replace(', ', '-').replace(' ', '_').lower()}-seed{seed}"


def compare(root: Path, start: Path, judge: Path, args: argparse.Namespace) -> str:
    """Run every arm for every RL seed from one policy, `args.jobs` at a time, and tabulate."""
    planned = plans(judge, args)

    def run(name: str, seed: int) -> None:
        config, flags = planned[name]
        folder, steps = run_folder(root, name, seed), ["--trainer.max_steps", str(args.steps)]
        if not (folder / "policy").exists():
            seconds = fit(config, folder, start, seed, [*flags, *steps, "--ckpt_path", "last"])
            print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        done = [pool.submit(run, name, seed) for seed in args.rl_seeds for name in planned]
    for future in done:
        future.result()
    lines = [
        "| arm | step | " + " | ".join(METRICS.values()) + " | judge precision | judge recall | training s |",
        "|---|---:|" + "---:|" * (len(METRICS) + 3),
    ]
    for name in planned:
        lines += arm_lines(name, [run_folder(root, name, seed) for seed in args.rl_seeds])
    return "\n".join(lines) + "\n"


def arm_lines(name: str, folders: Sequence[Path]) -> list[str]:
    """One line per evaluation, over the seeds; the judge is measured on the rollouts since the evaluation before."""
    curves, lines, last = [read_curves(folder) for folder in folders], list[str](), 0
    for step in sorted(curves[0]["val/avg_at_k"]):
        cells = [_spread([curve[metric][step] for curve in curves]) for metric in METRICS]
        judged = [step_scores(found) for folder in folders if (found := judged_steps(folder, last, step))]
        cells += [_spread([row.precision for row in judged]), _spread([row.recall for row in judged])]
        spent = [sum(s for at, s in curve["time/step_s"].items() if at <= step) for curve in curves]
        lines.append(f"| {name} | {step} | {' | '.join(cells)} | {statistics.mean(spent):.0f} |")
        last = step
    return lines


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def prepare(args: argparse.Namespace) -> tuple[Path, Path]:
    """The judge and the policy to start from; what is not there is trained, both at once with two jobs."""

    def train_judge() -> Path:
        folder = args.root / "sft"
        if not (folder / "policy").exists():
            flags = ["--ckpt_path", "last"]
            seconds = fit([JUDGE_SFT], folder, args.root / "initial", args.judge_seed, flags)
            print(f"judge trained in {seconds:.0f} s", flush=True)
        return folder / "policy"

    def train_policy() -> Path:
        folder = args.root / "compare"
        if not (folder / "sft" / "policy").exists():
            print(f"policy trained in {cold_start(REGIMES['standard'], folder, 0)[1]:.0f} s", flush=True)
        return folder / "sft" / "policy"

    # Here, since transformers cannot be imported by two threads at once.
    write_initial_judge(args.root / "initial", args.judge_seed)
    write_initial_model(args.root / "compare" / "initial", 0)
    with ThreadPoolExecutor(args.jobs) as pool:
        judge = None if args.judge else pool.submit(train_judge)
        policy = None if args.policy or not args.rl_seeds else pool.submit(train_policy)
    return judge.result() if judge else args.judge, policy.result() if policy else args.policy


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/pocket_judge"))
    parser.add_argument("--judge", type=Path, default=None, help="a trained judge (default: train one)")
    parser.add_argument("--judge_seed", type=int, default=0, help="of the judge's weights and training")
    parser.add_argument("--policy", type=Path, default=None, help="the policy to start from (default: a cold start)")
    parser.add_argument("--size", type=int, default=256, help="held-out solutions")
    parser.add_argument("--k", type=int, default=3, help="critiques per solution")
    parser.add_argument("--temperature", type=float, default=0.5, help="of sampled critiques")
    parser.add_argument("--votes", nargs="*", choices=get_args(VoteRule), default=list(get_args(VoteRule)))
    parser.add_argument("--rl_seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of each RL run")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    return parser.parse_args()


def main() -> None:
    """Train, measure, compare, print."""
    args, started = arguments(), time.monotonic()
    judge, policy = prepare(args)
    measures = measure_judge(judge, args.size, args.k, args.temperature)
    found = {vote: asdict(row) for vote, row in measures.items()}
    (args.root / "measures.json").write_text(json.dumps(found, indent=1) + "\n")
    report = table(measures)
    print(report, flush=True)
    if args.rl_seeds:
        compared = compare(args.root / "compare", policy, judge, args)
        print(compared)
        report += "\n" + compared
    (args.root / "results.md").write_text(report)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
