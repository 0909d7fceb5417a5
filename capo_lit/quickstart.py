"""`capo quickstart`: a cold start by SFT, then CAPO and GRPO from that checkpoint with equal rollouts, and a table."""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from capo_lit.compose import CONFIGS
from capo_lit.curves import Curve, read_curves
from capo_lit.errors import CapoError, ConfigError

PANELS = {
    "val/avg_at_k": "avg@8 (share right)",
    "val/greedy_accuracy": "greedy accuracy",
    "val/step_error_frac": "step error rate",
}


class RunError(CapoError):
    """A `capo` subprocess ended with an error."""


@dataclass(frozen=True)
class Regime:
    """Which configs a quickstart runs.

    Attributes:
        sft: of the cold start.
        rl: of the CAPO arm; the GRPO arm lays algorithm/grpo.yaml over it.
    """

    sft: str
    rl: str


REGIMES = {
    "standard": Regime("quickstart_sft.yaml", "quickstart.yaml"),
    "sparse": Regime("quickstart_sparse_sft.yaml", "quickstart_sparse.yaml"),
}


@dataclass(frozen=True)
class Row:
    """One line of the table: a policy, measured on held-out problems.

    Attributes:
        name: start, CAPO or GRPO.
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


def fit(config: Sequence[str], root: Path, policy: Path, seed: int, extra: Sequence[str] = ()) -> float:
    """Run `capo fit` in a process of its own.

    Returns:
        Its wall time, seconds.

    Raises:
        RunError: if it fails.
    """
    files = [word for name in config for word in ("--config", str(CONFIGS / name))]
    settings = ["--policy", str(policy), "--trainer.default_root_dir", str(root), "--seed_everything", str(seed)]
    started = time.monotonic()
    command = [sys.executable, "-m", "capo_lit.cli", "fit", *files, *settings, *extra]
    # A model this small is not worth a second thread; a user's own choice counts.
    env = {"OMP_NUM_THREADS": "1", **os.environ}
    status = subprocess.run(command, check=False, env=env).returncode
    if status:
        raise RunError(f"exit status {status}", "0", " ".join(command[1:]), "see the message above")
    return time.monotonic() - started


def cold_start(regime: Regime, root: Path, seed: int) -> tuple[Path, float]:
    """Write a random model and fine-tune it on demonstrations.

    Returns:
        The directory of the trained policy, and the wall time of its training, seconds.
    """
    from capo_lit.data.arithmetic_model import write_initial_model

    initial = write_initial_model(root / "initial", seed)
    seconds = fit([regime.sft], root / "sft", initial, seed)
    return root / "sft" / "policy", seconds


def arms(regime: Regime) -> dict[str, list[str]]:
    """The config files of each arm."""
    return {"CAPO": [regime.rl], "GRPO": [regime.rl, "algorithm/grpo.yaml"]}


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


def main(argv: Sequence[str]) -> int:
    """Run `capo quickstart`.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(
        prog="capo quickstart",
        description="Train a small Llama on the built-in arithmetic: SFT, then CAPO and GRPO from that checkpoint with "
        "equal rollouts, sampled by vLLM. Prints a table; writes curves, records and summary.json.",
    )
    parser.add_argument("--regime", choices=sorted(REGIMES), default="standard", help="sparse: right answers are rare")
    parser.add_argument("--root", type=Path, default=None, help="run directory (default: a new one under runs/)")
    parser.add_argument("--seed", type=int, default=0, help="of model, data and sampling")
    args = parser.parse_args(argv)
    root = args.root or Path("runs") / time.strftime(f"quickstart-{args.regime}-%Y%m%d-%H%M%S")
    if root.exists():
        raise ConfigError(f"{root}, which exists", "a new directory", change="--root")
    if not CONFIGS.is_dir():
        raise ConfigError(
            "an installation without configs/", "a clone of the repository", str(CONFIGS), "pip install -e ."
        )
    started = time.monotonic()
    regime = REGIMES[args.regime]
    policy, sft_seconds = cold_start(regime, root, args.seed)
    rows, curves = [], {}
    for name, config in arms(regime).items():
        seconds = fit(config, root / name.lower(), policy, args.seed)
        curves[name] = read_curves(root / name.lower())
        if not rows:
            rows.append(summarize(curves[name], "start", sft_seconds, at=0))
        rows.append(summarize(curves[name], name, seconds))
    plot(curves, root / "curves.png")
    summary = {"rows": [asdict(row) for row in rows], "seconds": time.monotonic() - started, "peak_mib": _peak_mib()}
    (root / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    _show(rows, summary["seconds"], root)  # type: ignore[arg-type]
    return 0


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
    console.print(
        f"CAPO gained {capo.avg_at_8 - start.avg_at_8:+.3f} avg@8 and cut the step error rate by "
        f"{1 - capo.step_error / start.step_error:.0%}. {seconds / 60:.1f} minutes, {_peak_mib():.0f} MiB peak.\n"
        f"curves: {root}/curves.png   records: {root}/capo/records   policy: {root}/capo/policy"
    )
