"""`capo report`: a page with tables and figures that compares runs."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from capo_lit.cli.command import command
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.core.files import write_atomic
from capo_lit.records.report.page import MISSING, page, table
from capo_lit.records.report.plots import draw_all
from capo_lit.records.report.systems import System, best_baseline, systems_of
from capo_lit.records.results import installed_versions
from capo_lit.records.runs import Run, find_runs, read_runs


def report(
    runs: Annotated[list[Path], {"metavar": "RUNS"}],
    out: Path = Path("report"),
    force: bool = False,
    label: Annotated[Sequence[str], {"action": "append", "default": [], "metavar": "NAME=PATTERN"}] = (),
    baseline: Annotated[str | None, {"metavar": "NAME"}] = None,
    *,
    argv: Sequence[str] = (),
) -> None:
    """Compare runs, as markdown with PNG and SVG figures.

    Accuracy, training dynamics, votes, numbers of critiques, weights, what the judge cost, and accuracy per unit of
    compute, with the spread over seeds.

    Args:
        runs: run folders, or folders of them (a sweep)
        out: folder of the report
        force: write over an earlier report
        label: runs whose path or folder name fits PATTERN (as in the shell, quoted) are runs of NAME; may be repeated.
            Without it: label.txt in the folder, a sweep's experiment, or the folder's name
        baseline: to compare with (default: the best without w_process)
        argv: the arguments as they were given, for the manifest
    """
    _refuse_to_overwrite(out, force)
    labels = [_label(text) for text in label]
    folders = find_runs(runs)
    _say(f"reading {len(folders)} runs")
    found = read_runs(folders, labels)
    systems = systems_of(found)
    if not systems:
        troubles = "; ".join(f"{run.path}: {run.trouble}" for run in found)
        raise DataError(f"no whole run ({troubles})", "at least one run that took all its steps", change="RUNS")
    compared = _baseline(systems, baseline)
    out.mkdir(parents=True, exist_ok=True)
    figures = draw_all(systems, out, lambda name: _say(f"drawing {name}"))
    text = page(found, systems, compared, figures, _manifest(found, shlex.join(["capo", "report", *argv])))
    write_atomic(out / "index.md", lambda path: path.write_text(text), "--out")
    sys.stdout.write(f"{out / 'index.md'}\n")


def _refuse_to_overwrite(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError("a file", "a folder", str(out), "--out")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ConfigError("a folder with files in it", "a new or empty one", str(out), "--out, or --force")


def _label(text: str) -> tuple[str, str]:
    name, equals, pattern = text.partition("=")
    if not (name and equals and pattern):
        raise ConfigError(repr(text), "NAME=PATTERN, such as CAPO='runs/*/capo'", change="--label")
    return name, pattern


def _baseline(systems: Sequence[System], name: str | None) -> System | None:
    if name is None:
        return best_baseline(systems)
    chosen = next((system for system in systems if system.name == name), None)
    if chosen is None:
        names = ", ".join(repr(system.name) for system in systems)
        raise ConfigError(f"baseline {name!r}", f"one of {names}", change="--baseline")
    return chosen


def _say(text: str) -> None:
    sys.stderr.write(f"capo report: {text}\n")


def _manifest(runs: Sequence[Run], command: str) -> str:
    seeds = sorted({run.seed for run in runs if run.seed is not None})
    facts = {
        "command": f"`{command}`",
        "seeds": ", ".join(map(str, seeds)) or "none named",
        "versions where this report was made": ", ".join(
            f"{name} {version}" for name, version in installed_versions().items()
        ),
        "machine where it was made": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }
    rows = []
    for run in runs:
        seed = MISSING if run.seed is None else str(run.seed)
        rows.append([f"`{run.path}`", run.system, seed, str(run.last_step), run.digest or MISSING])
    return (
        "## Manifest\n\n"
        + "".join(f"- {name}: {value}\n" for name, value in facts.items())
        + "\n"
        + table(["run", "system", "seed", "steps", "SHA-256 of its config"], rows)
    )


main = command(report)
