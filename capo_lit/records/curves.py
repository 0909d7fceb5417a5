"""Reads what runs logged: curves of metrics over optimizer steps."""

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from capo_lit.core.errors import DataError

Curve = dict[int, float]


def read_curves(root: Path) -> dict[str, Curve]:
    """Metrics of a run by name, each as {step: value}.

    A resumed run has one CSV file per start; where two have the same step, the later start counts. A last line
    without an end, of a run that was killed as it wrote, is left out.

    Args:
        root: the run's trainer.default_root_dir.

    Raises:
        DataError: if the run logged nothing there, or a row is not of numbers.
    """
    files = sorted((root / "csv").glob("version_*/metrics.csv"), key=lambda path: int(path.parent.name.split("_")[1]))
    if not files:
        raise DataError(
            "no csv/version_*/metrics.csv",
            "the logs of a run",
            str(root),
            "trainer.logger (leave it unset), or the path",
        )
    curves: dict[str, Curve] = defaultdict(dict)
    for file in files:
        try:
            for step, name, value in _points(file):
                curves[name][step] = value
        except (ValueError, TypeError) as error:
            got = f"a row that cannot be read ({error})"
            raise DataError(got, "numbers by step", str(file), "that row: mend or remove it") from error
    return dict(curves)


def _points(file: Path) -> Iterator[tuple[int, str, float]]:
    with file.open(newline="") as lines:
        # A run that was killed may leave half a line at the end, whose last number is cut.
        for row in csv.DictReader(line for line in lines if line.endswith("\n")):
            step = int(row["step"])
            for name, value in row.items():
                if name not in ("step", "epoch") and value:
                    yield step, name, float(value)
