"""`capo quickstart`: cold starts of policy and judge by SFT, then CAPO and GRPO with equal rollouts, and a table."""

import argparse
import json
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

from capo_lit.arithmetic.pocket_judge import measure_judge
from capo_lit.cli.compose import CONFIGS
from capo_lit.cli.quickstart_runs import JUDGE_SFT, REGIMES, Regime, arm_name, arms, cold_start, few_steps, fit
from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.judging.step_scores import StepScores
from capo_lit.records.curves import Curve, read_curves

JUDGED = "CAPO judge"
# How the judge is measured: as configs/quickstart_genprm.yaml uses it.
HELD_OUT, CRITIQUES, TEMPERATURE = 128, 3, 0.5
PANELS = {
    "val/avg_at_k": "avg@8 (share right)",
    "val/greedy_accuracy": "greedy accuracy",
    "val/step_error_frac": "step error rate",
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a policy, measured on held-out problems.

    Attributes:
        name: start, or the arm.
        greedy: accuracy at temperature 0.
        avg_at_8: mean accuracy of 8 samples per problem.
        step_error: share of wrong steps.
        seconds: wall time of the run, start-up and evaluations included.
        tokens: generated for training.
    """

    name: str
    greedy: float
    avg_at_8: float
    step_error: float
    seconds: float
    tokens: float


def summarize(curves: dict[str, Curve], name: str, seconds: float, at: int | None = None) -> Row:
    """A row of the table from a run's curves.

    Args:
        curves: of the run.
        name: of the row.
        seconds: wall time of the run.
        at: step to report; the last one by default.
    """
    values = [curves[metric] for metric in ("val/greedy_accuracy", "val/avg_at_k", "val/step_error_frac")]
    step = max(values[0]) if at is None else at
    tokens = sum(count for when, count in curves["rollout/tokens"].items() if when <= step)
    return Row(name, *(curve[step] for curve in values), seconds, tokens)


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line, checked; `root` is always set."""
    parser = argparse.ArgumentParser(
        prog="capo quickstart",
        description="Train a small Llama on the built-in arithmetic: SFT, then CAPO and GRPO from that checkpoint with "
        "equal rollouts, sampled by vLLM. The judge of CAPO is a small Llama too, trained beside; another arm has a "
        "rule in its place. Prints a table; writes curves, records and summary.json.",
    )
    parser.add_argument(
        "--regime", choices=sorted(REGIMES), default="standard", help="sparse: right answers are rare, rule alone"
    )
    parser.add_argument("--root", type=Path, default=None, help="run directory (default: a new one under runs/)")
    parser.add_argument("--seed", type=int, default=0, help="of models, data and sampling")
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="of every run, to see in a minute or two whether all of it works; nothing is learnt in a few (default: "
        "as many as configs/ says)",
    )
    args = parser.parse_args(argv)
    args.root = args.root or Path("runs") / time.strftime(f"quickstart-{args.regime}-%Y%m%d-%H%M%S")
    if args.steps is not None and args.steps < 1:
        raise ConfigError(args.steps, "at least 1", change="--steps")
    if args.root.exists():
        raise ConfigError(f"{args.root}, which exists", "a new directory", change="--root")
    return args


def main(argv: Sequence[str]) -> int:
    """Run `capo quickstart`.

    Returns:
        The exit status.
    """
    args = _arguments(argv)
    if not CONFIGS.is_dir():
        raise ConfigError(
            "an installation without configs/", "a clone of the repository", str(CONFIGS), "pip install -e ."
        )
    regime, root = REGIMES[args.regime], args.root
    started = time.monotonic()
    policy, judge, sft_seconds = _cold_starts(regime, root, args.seed, args.steps)
    if judge is not None:
        _show_judge(judge)
    seconds = _train(regime, root, policy, judge, args.seed, args.steps)
    curves = {name: read_curves(_folder(root, name)) for name in seconds}
    first = next(iter(curves.values()))
    rows = [summarize(first, "start", sft_seconds, at=0)]
    rows += [summarize(curves[name], name, spent) for name, spent in seconds.items()]
    plot(curves, root / "curves.png")
    summary = {"rows": [asdict(row) for row in rows], "seconds": time.monotonic() - started, "peak_mib": _peak_mib()}
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _show(rows, time.monotonic() - started, root)
    return 0


def _folder(root: Path, name: str) -> Path:
    return root / arm_name(name)


def _cold_starts(regime: Regime, root: Path, seed: int, steps: int | None) -> tuple[Path, Path | None, float]:
    """The policy, and beside it the judge if the regime has one; then the seconds that the policy took."""
    few = few_steps(steps)
    if regime.genprm is None:
        policy, seconds = cold_start(regime, root, seed, few)
        return policy, None, seconds
    from capo_lit.arithmetic.judge_model import write_initial_judge

    folder = root / "judge"
    initial = write_initial_judge(folder / "initial", seed)
    flags = few_steps(steps, "data.val.problems.size")
    if flags:  # a schedule cannot end as it warms up
        flags.append("--model.optim.warmup_steps=0")
    # A model this small takes one core: the judge gets another.
    with ThreadPoolExecutor(1) as beside:
        trained = beside.submit(fit, [JUDGE_SFT], folder / "sft", initial, seed, flags, root / "judge.log")
        policy, seconds = cold_start(regime, root, seed, few)
    trained.result()
    return policy, folder / "sft" / "policy", seconds


def _train(
    regime: Regime, root: Path, policy: Path, judge: Path | None, seed: int, steps: int | None
) -> dict[str, float]:
    """Run every arm; returns their wall times, seconds. With a judge the arms without it run beside that one."""
    few, plain = few_steps(steps), {name: (_folder(root, name), config) for name, config in arms(regime).items()}
    if regime.genprm is None or judge is None:
        return {name: fit(config, folder, policy, seed, few) for name, (folder, config) in plain.items()}
    flags = ["--critique.judge.init_args.engine.init_args.model", str(judge), *few]
    if few:  # a judge that has learnt nothing abstains, which would end the run
        flags += ["--critique.max_abstain_frac", "1"]
    with ThreadPoolExecutor(1) as beside:
        others = {
            name: beside.submit(fit, config, folder, policy, seed, few, folder.with_suffix(".log"))
            for name, (folder, config) in plain.items()
        }
        judged = fit([regime.genprm], _folder(root, JUDGED), policy, seed, flags)
    return {JUDGED: judged} | {name: future.result() for name, future in others.items()}


def _show_judge(judge: Path) -> None:
    """Measure the judge on held-out solutions, in a process that its engine ends with, and print how good it is."""
    from rich.console import Console
    from rich.table import Table

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        measures = pool.submit(measure_judge, judge, HELD_OUT, CRITIQUES, TEMPERATURE).result()
    title = f"The judge on {HELD_OUT} held-out solutions with planted errors: wrong steps found, by vote of {CRITIQUES}"
    table = Table(title=title, title_justify="left")
    table.add_column("vote")
    names = [field.name for field in fields(StepScores)]
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for vote, scores in measures.items():
        table.add_row(vote, *(f"{getattr(scores, name):.3f}" for name in names))
    Console().print(table)


def plot(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Draw accuracy and step error of every arm over optimizer steps.

    Args:
        curves: by arm, then by metric.
        path: of the image.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), layout="constrained")
    for axis, (metric, label) in zip(axes, PANELS.items(), strict=True):
        for name, run in curves.items():
            points = sorted(run[metric].items())
            axis.plot([step for step, _ in points], [value for _, value in points], marker="o", label=name)
        axis.set(xlabel="optimizer step", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _peak_mib() -> float:
    """Largest resident memory of any of the runs, MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _show(rows: Sequence[Row], seconds: float, root: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Built-in arithmetic, held-out problems", title_justify="left")
    for heading in ("policy", "greedy", "avg@8", "step error", "seconds", "tokens sampled"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for row in rows:
        figures = (f"{row.greedy:.3f}", f"{row.avg_at_8:.3f}", f"{row.step_error:.3f}", f"{row.seconds:.0f}")
        table.add_row(row.name, *figures, f"{row.tokens:,.0f}")
    console = Console()
    console.print(table)
    start, capo = rows[0], rows[1]
    folder = _folder(root, capo.name)
    console.print(
        f"{capo.name}: {capo.avg_at_8 - start.avg_at_8:+.3f} avg@8 and the step error rate cut by "
        f"{1 - capo.step_error / start.step_error:.0%}. {seconds / 60:.1f} minutes, {_peak_mib():.0f} MiB peak.\n"
        f"curves: {root}/curves.png   records: {folder}/records   policy: {folder}/policy"
    )
