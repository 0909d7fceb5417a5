"""The pocket judge: train it, measure the steps it finds, and compare CAPO under it with CAPO under the rule and GRPO.

    .venv/bin/python bench/pocket_judge.py --rl_seeds 0                      # train, measure, compare
    .venv/bin/python bench/pocket_judge.py --rl_seeds                        # train and measure only
    .venv/bin/python bench/pocket_judge.py --judge some/policy --rl_seeds    # measure only

Writes measures.json, results.md and the runs; runs that are finished are not repeated. All arms start from one policy.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

from capo_lit.batch import Completion, CritiquedRollout, Prompt, Rollout
from capo_lit.core.votes import VoteRule, tally
from capo_lit.curves import read_curves
from capo_lit.data.arithmetic_critiques import ArithmeticCritiqueSource
from capo_lit.data.critique_model import write_initial_judge
from capo_lit.genprm.arithmetic import check_steps
from capo_lit.genprm.base import step_texts
from capo_lit.genprm.judge import GenPRM
from capo_lit.quickstart import REGIMES, arms, cold_start, fit
from capo_lit.sampling import Sampling

MAX_TOKENS = 96
METRICS = {"val/avg_at_k": "avg@8", "val/greedy_accuracy": "greedy", "val/step_error_frac": "step error"}
GENPRM = "quickstart_genprm.yaml"


@dataclass(frozen=True)
class Measure:
    """How well wrong steps are found, over all steps of all solutions.

    Attributes:
        precision: share of wrong steps among the flagged weight; 1 if nothing is flagged.
        recall: share of the wrong steps' weight that is flagged; 1 if nothing is wrong.
        false_positive: mean step error given to right steps.
        exact: share of solutions whose every step has the right step error.
        abstained: share of critiques without a verdict.
    """

    precision: float
    recall: float
    false_positive: float
    exact: float
    abstained: float


def measure(found: Iterable[tuple[Sequence[float], frozenset[int]]], abstained: float = 0.0) -> Measure:
    """Score step errors against the truth; a fractional error (the average vote) counts as that part of a flag.

    Args:
        found: per solution the step error of every step, in [0, 1], and its wrong steps.
        abstained: share of critiques without a verdict, passed on.
    """
    hits = flagged = wrong = steps = 0.0
    exact: list[bool] = []
    for errors, truth in found:
        hits += sum(errors[step] for step in truth)
        flagged, wrong, steps = flagged + sum(errors), wrong + len(truth), steps + len(errors)
        exact.append(all(error == float(step in truth) for step, error in enumerate(errors)))
    return Measure(
        precision=hits / flagged if flagged else 1.0,
        recall=hits / wrong if wrong else 1.0,
        false_positive=(flagged - hits) / (steps - wrong) if steps > wrong else 0.0,
        exact=statistics.mean(exact),
        abstained=abstained,
    )


def held_out(size: int, seed: int = 1) -> Iterator[Rollout]:
    """Solutions of test problems, about half of them with planted errors, as rollouts that a judge takes."""
    for row, (problem, steps) in enumerate(ArithmeticCritiqueSource(size, seed, split="test").solutions()):
        text = "\n\n".join(steps)
        completion = Completion(str(row), (1,), (text,), (False,), text, None, "stop", 1, None, 0.0)
        yield Rollout(row, row, 0, Prompt(f"held out {row}", problem, (1,), ""), completion, 1.0)


def scores(judged: Sequence[CritiquedRollout], vote: VoteRule) -> Measure:
    """The measure of recorded critiques under a vote."""
    found, silent = [], []
    for item in judged:
        critiques = [critique.wrong for critique in item.critiques]
        truth = check_steps(item.rollout.prompt.problem, step_texts(item.rollout.completion.text, item.spans))
        found.append((tally(critiques, len(item.spans), vote).step_error, truth))
        silent += [wrong is None for wrong in critiques]
    return measure(found, statistics.mean(silent))


def measure_judge(model: Path, size: int, k: int, temperature: float = 1.0) -> dict[str, Measure]:
    """Critique held-out solutions with vLLM and score every vote; one sampling serves all votes but greedy.

    It is done under the average vote, which no critique settles before the last.
    """
    from capo_lit.engines.vllm import VLLMEngine

    engine = VLLMEngine(str(model), dtype="float32", max_model_len=256, max_num_seqs=48, kv_cache_gib=0.25)
    try:
        sampled = GenPRM(engine, k=k, vote="average", sampling=Sampling(temperature, max_tokens=MAX_TOKENS))
        greedy = GenPRM(engine, k=1, vote="greedy", sampling=Sampling(temperature=0.0, max_tokens=MAX_TOKENS))
        started = time.monotonic()
        judged = list(sampled.judge(held_out(size), seed=0))
        seconds = time.monotonic() - started
        print(f"{size * k} critiques in {seconds:.1f} s; one of them:\n{judged[0].critiques[0].reply}\n")
        result = {vote: scores(judged, vote) for vote in get_args(VoteRule) if vote != "greedy"}
        return result | {"greedy": scores(list(greedy.judge(held_out(size), seed=0)), "greedy")}
    finally:
        engine.close()


def compare(root: Path, judge: Path, args: argparse.Namespace) -> str:
    """Run every arm for every RL seed from one policy, and tabulate."""
    quickstart = arms(REGIMES["standard"])
    start = args.policy or root / "sft" / "policy"
    if not start.exists():
        cold_start(REGIMES["standard"], root, 0)
    plans: dict[str, tuple[list[str], list[str]]] = {"CAPO, rule": (quickstart["CAPO"], [])}
    for vote in args.votes:
        words = {"engine.init_args.model": str(judge), "vote": vote, "k": str(args.k)}
        words["sampling.temperature"] = str(args.temperature)
        if vote == "greedy":
            words |= {"k": "1", "sampling.temperature": "0"}
        flags = [word for key, value in words.items() for word in (f"--critique.judge.init_args.{key}", value)]
        plans[f"CAPO, pocket judge, {vote}"] = ([GENPRM], flags)
    plans["GRPO"] = (quickstart["GRPO"], [])
    lines = [
        "| arm | step | " + " | ".join(METRICS.values()) + " | training s |",
        "|---|---:|" + "---:|" * (len(METRICS) + 1),
    ]
    for name, (config, flags) in plans.items():
        curves = []
        for seed in args.rl_seeds:
            folder = root / f"{name.replace(', ', '-').replace(' ', '_').lower()}-seed{seed}"
            if not (folder / "policy").exists():
                steps = ["--trainer.max_steps", str(args.steps)]
                fit(config, folder, start, seed, [*flags, *steps, "--ckpt_path", "last"])
            curves.append(read_curves(folder))
        for step in sorted(curves[0]["val/avg_at_k"]):
            cells = [_spread([curve[metric][step] for curve in curves]) for metric in METRICS]
            spent = [sum(s for at, s in curve["time/step_s"].items() if at <= step) for curve in curves]
            lines.append(f"| {name} | {step} | {' | '.join(cells)} | {statistics.mean(spent):.0f} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")


def table(measures: dict[str, Measure]) -> str:
    """The judge's figures, one line per vote."""
    names = list(Measure.__dataclass_fields__)
    lines = ["| vote | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    lines += [
        f"| {vote} | " + " | ".join(f"{value:.3f}" for value in asdict(row).values()) + " |"
        for vote, row in measures.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("runs/pocket_judge"))
    parser.add_argument("--judge", type=Path, default=None, help="a trained judge (default: train one)")
    parser.add_argument("--judge_seed", type=int, default=0, help="of the judge's weights and training")
    parser.add_argument("--policy", type=Path, default=None, help="the policy to start from (default: a cold start)")
    parser.add_argument("--size", type=int, default=256, help="held-out solutions")
    parser.add_argument("--k", type=int, default=4, help="critiques per solution")
    parser.add_argument("--temperature", type=float, default=0.5, help="of sampled critiques")
    parser.add_argument("--votes", nargs="*", choices=get_args(VoteRule), default=list(get_args(VoteRule)))
    parser.add_argument("--rl_seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--steps", type=int, default=80, help="optimizer steps of each RL run")
    args = parser.parse_args()
    judge = args.judge or args.root / "sft" / "policy"
    if not judge.exists():
        initial = write_initial_judge(args.root / "initial", args.judge_seed)
        print(f"judge trained in {fit(['pocket_judge_sft.yaml'], args.root / 'sft', initial, args.judge_seed):.0f} s")
    measures = measure_judge(judge, args.size, args.k, args.temperature)
    args.root.mkdir(parents=True, exist_ok=True)
    found = {vote: asdict(row) for vote, row in measures.items()}
    (args.root / "measures.json").write_text(json.dumps(found, indent=1) + "\n")
    report = table(measures)
    print(report)
    if args.rl_seeds:
        compared = compare(args.root / "compare", judge, args)
        print(compared)
        report += "\n" + compared
    (args.root / "results.md").write_text(report)


if __name__ == "__main__":
    main()
