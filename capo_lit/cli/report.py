"""`capo report`: a page with tables and figures that compares runs."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from capo_lit.core.errors import CapoError, ConfigError, DataError
from capo_lit.records.report.page import MISSING, page, table
from capo_lit.records.report.plots import draw_all
from capo_lit.records.report.systems import System, best_baseline, systems_of
from capo_lit.records.results import installed_versions
from capo_lit.records.runs import Run, find_runs, read_runs


def main(argv: Sequence[str]) -> int:
    """Run `capo report`.

    Args:
        argv: the arguments after `report`.

    Returns:
        The exit status: 0, or 1 if there is nothing to report or it cannot be written.
    """
    args = _parser().parse_args(argv)
    try:
        _refuse_to_overwrite(args.out, args.force)
        labels = [_label(text) for text in args.label]
        runs = read_runs(_told(find_runs(args.runs)), labels)
        systems = systems_of(runs)
        if not systems:
            found = "; ".join(f"{run.path}: {run.trouble}" for run in runs)
            raise DataError(f"no whole run ({found})", "at least one run that took all its steps", change="RUNS")
        baseline = _baseline(systems, args.baseline)
        args.out.mkdir(parents=True, exist_ok=True)
        figures = draw_all(systems, args.out, lambda name: _say(f"drawing {name}"))
        command = shlex.join(["capo", "report", *argv])
        path = args.out / "index.md"
        path.write_text(page(runs, systems, baseline, figures, _manifest(runs, command)))
    except CapoError as error:
        sys.stderr.write(f"capo report: {error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capo report",
        description="Compare runs: accuracy, training dynamics, votes, numbers of critiques, weights, what the judge "
        "cost, and accuracy per unit of compute, with the spread over seeds, as markdown with PNG and SVG figures.",
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUNS", help="run folders, or folders of them (a sweep)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder of the report (default: report/)")
    parser.add_argument("--force", action="store_true", help="write over an earlier report")
    parser.add_argument(
        "--label",
        action="append",
        default=[],
        metavar="NAME=PATTERN",
        help="runs whose path or folder name fits PATTERN (as in the shell, quoted) are runs of NAME; may be repeated. "
        "Without it: label.txt in the folder, a sweep's experiment, or the folder's name",
    )
    parser.add_argument("--baseline", metavar="NAME", help="to compare with (default: the best without w_process)")
    return parser


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


def _told(folders: Sequence[Path]) -> list[Path]:
    """The folders, after saying how many there are."""
    _say(f"reading {len(folders)} runs")
    return list(folders)


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
    rows = [
        [
            f"`{run.path}`",
            run.system,
            MISSING if run.seed is None else str(run.seed),
            str(run.last_step),
            run.digest or MISSING,
        ]
        for run in runs
    ]
    return (
        "## Manifest\n\n"
        + "".join(f"- {name}: {value}\n" for name, value in facts.items())
        + "\n"
        + table(["run", "system", "seed", "steps", "SHA-256 of its config"], rows)
    )
