"""`capo quickstart`: cold starts of policy and judge by SFT, then CAPO and GRPO with equal rollouts, and a table."""

import json
import resource
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Literal

from capo_lit.arithmetic.pocket_judge import measure_judge
from capo_lit.cli.command import command
from capo_lit.cli.compose import CONFIGS
from capo_lit.cli.quickstart_runs import JUDGE_SFT, REGIMES, Regime, arm_name, arms, cold_start, few_steps, fit
from capo_lit.cli.show import show_table
from capo_lit.core.errors import ConfigError
from capo_lit.evaluation.judging.step_scores import StepScores
from capo_lit.records.curves import Curve, read_curves
from capo_lit.records.inspect.plots import plot_curves

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


def quickstart(
    regime: Literal["sparse", "standard"] = "standard",
    root: Path | None = None,
    seed: int = 0,
    steps: Annotated[int | None, {"metavar": "N"}] = None,
) -> None:
    """Train a small Llama on the built-in arithmetic.

    SFT, then CAPO and GRPO from that checkpoint with equal rollouts, sampled by vLLM. The judge of CAPO is a small
    Llama too, trained beside; another arm has a rule in its place. Prints a table; writes curves, records and
    summary.json.

    Args:
        regime: sparse: right answers are rare, rule alone
        root: run directory (default: a new one under runs/)
        seed: of models, data and sampling
        steps: of every run, to see in a minute or two whether all of it works; nothing is learnt in a few (default: as
            many as configs/ says)
    """
    root = root or Path("runs") / time.strftime(f"quickstart-{regime}-%Y%m%d-%H%M%S")
    if steps is not None and steps < 1:
        raise ConfigError(f"{steps} steps", "at least 1", change="--steps")
    if root.exists():
        raise ConfigError(f"{root}, which exists", "a new directory", change="--root")
    if not CONFIGS.is_dir():
        raise ConfigError(
            "an installation without configs/", "a clone of the repository", str(CONFIGS), "pip install -e ."
        )
    started = time.monotonic()
    policy, judge, sft_seconds = _cold_starts(REGIMES[regime], root, seed, steps)
    if judge is not None:
        _show_judge(judge)
    seconds = _train(REGIMES[regime], root, policy, judge, seed, steps)
    curves = {name: read_curves(_folder(root, name)) for name in seconds}
    first = next(iter(curves.values()))
    rows = [summarize(first, "start", sft_seconds, at=0)]
    rows += [summarize(curves[name], name, spent) for name, spent in seconds.items()]
    plot_curves(curves, PANELS).savefig(root / "curves.png")
    summary = {"rows": [asdict(row) for row in rows], "seconds": time.monotonic() - started, "peak_mib": _peak_mib()}
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _show(rows, time.monotonic() - started, root)


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
    flags = [*few, "--model.optim.warmup_steps=0"] if few else []  # a schedule cannot end as it warms up
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
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        measures = pool.submit(measure_judge, judge, HELD_OUT, CRITIQUES, TEMPERATURE).result()
    names = [field.name for field in fields(StepScores)]
    show_table(
        f"The judge on {HELD_OUT} held-out solutions with planted errors: wrong steps found, by vote of {CRITIQUES}",
        ("vote", *(name.replace("_", " ") for name in names)),
        [(vote, *(f"{getattr(scores, name):.3f}" for name in names)) for vote, scores in measures.items()],
    )


def _peak_mib() -> float:
    """Largest resident memory of any of the runs, MiB."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def _show(rows: Sequence[Row], seconds: float, root: Path) -> None:
    cells = []
    for row in rows:
        shares = (f"{value:.3f}" for value in (row.greedy, row.avg_at_8, row.step_error))
        cells.append((row.name, *shares, f"{row.seconds:.0f}", f"{row.tokens:,.0f}"))
    headings = ("policy", "greedy", "avg@8", "step error", "seconds", "tokens sampled")
    show_table("Built-in arithmetic, held-out problems", headings, cells)
    start, capo = rows[0], rows[1]
    folder = _folder(root, capo.name)
    sys.stdout.write(
        f"{capo.name}: {capo.avg_at_8 - start.avg_at_8:+.3f} avg@8 and the step error rate cut by "
        f"{1 - capo.step_error / start.step_error:.0%}. {seconds / 60:.1f} minutes, {_peak_mib():.0f} MiB peak.\n"
        f"curves: {root}/curves.png   records: {folder}/records   policy: {folder}/policy\n"
    )


main = command(quickstart)
