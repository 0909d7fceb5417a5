"""From runs to the page: which records are read, which rollouts are kept, and the curves beside them."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from capo_lit.core.errors import DataError
from capo_lit.evaluation.names import METRICS
from capo_lit.records.curves import Curve, read_curves
from capo_lit.records.schema import read_records, record_files
from capo_lit.records.viewer.page import packed, page
from capo_lit.records.viewer.rows import Index, details, in_chunks, spread

# One chart each, if a run logged it.
CURVES = {
    "val/avg_at_k": "Accuracy, avg@k",
    "val/greedy_accuracy": "Accuracy, greedy",
    "val/step_error_frac": "Step error",
    "reward/outcome_mean": "Right answers in training",
    "reward/token_mean": "Token reward",
    "critique/wrong_step_frac": "Wrong-step share",
    "critique/vote_agreement": "Agreement of critiques",
    "critique/judge_completion_tokens": "Tokens the judge wrote",
    "rollout/length_mean": "Response length",
}
_CHUNK = 64  # rollouts that are unpacked together
Steps = tuple[int | None, int | None]


@dataclass(frozen=True)
class Source:
    """One run to show.

    Attributes:
        name: as its records have it.
        path: as it was given.
        files: its records, by step and rank.
        curves: what it logged, empty if it logged nothing.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    curves: dict[str, Curve]


def find(path: Path, steps: Steps = (None, None)) -> Source:
    """A run's records and curves.

    Args:
        path: the run's folder, its folder of records, or one record file.
        steps: first and last step to show, None for no bound.

    Raises:
        DataError: if there are no records, or none of those steps.
    """
    folder = path / "records" if (path / "records").is_dir() else path
    if path.is_file():
        folder, numbers = path.parent, read_records(path, ["step"])["step"].to_pylist()
        found = [(step, path) for step in numbers[:1]]
    else:
        found = [(file.step, file.path) for file in record_files(folder)]
    if not found:
        raise DataError("no files step-*.parquet with rows", "a run with records", str(path), "RUN")
    files = tuple(file for step, file in found if _within(step, steps))
    if not files:
        raise DataError(f"steps {found[0][0]} to {found[-1][0]}", "some of --steps", str(path), "--steps")
    name = read_records(files[0], ["run"]).slice(0, 1)["run"].to_pylist()
    return Source(name[0] if name else path.resolve().name, path, files, _curves(folder.parent))


def _curves(root: Path) -> dict[str, Curve]:
    if not any((root / "csv").glob("version_*/metrics.csv")):
        return {}
    return read_curves(root)


def _within(step: int, steps: Steps) -> bool:
    first, last = steps
    return (first is None or step >= first) and (last is None or step <= last)


def build(sources: Sequence[Source], limit: int, track: Callable[[Sequence[Any]], Iterable[Any]]) -> str:
    """The page of some runs.

    Args:
        sources: from `find`.
        limit: rollouts in the page at most; the page says so if it leaves out any.
        track: passes on the record files while it shows how far it is.

    Raises:
        DataError: if records cannot be read.
    """
    files = [(number, file) for number, source in enumerate(sources) for file in source.files]
    masks = _masks([file for _, file in files], limit)
    index = Index()
    work = [(*file, mask) for file, mask in zip(files, masks, strict=True)]
    chunks = [packed(chunk) for chunk in in_chunks(_rows(track(work), index), _CHUNK)]
    names = _names(sources)
    facts = {
        "runs": [{"name": name, "curves": _shown(source)} for name, source in zip(names, sources, strict=True)],
        "metrics": [_metric(name) for name in CURVES],
        "columns": index.columns,
        "prompts": index.prompts,
        "chunk": _CHUNK,
        "total": sum(len(mask) for mask in masks),
        "limit": limit,
    }
    return page(facts, chunks, f"{', '.join(names)} - capo inspect")


def _masks(files: Sequence[Path], limit: int) -> list[np.ndarray]:
    """Which rows of every file to keep."""
    groups, sizes, first = [], [], 0
    for file in files:
        column = read_records(file, ["group"])["group"].to_numpy().astype(np.int64)  # from 0 in every file
        groups.append(column + first)
        sizes.append(len(column))
        first += int(column.max(initial=-1)) + 1
    return np.split(spread(np.concatenate(groups), limit), np.cumsum(sizes)[:-1])


def _rows(files: Iterable[tuple[int, Path, np.ndarray]], index: Index) -> Iterator[dict[str, Any]]:
    """The details of the rows that are kept, entered in the index as they pass; one file is in memory at a time."""
    for run, file, kept in files:
        if not kept.any():
            continue
        for row in details(read_records(file).filter(pa.array(kept))):
            index.add(run, row)
            yield row


def _names(sources: Sequence[Source]) -> list[str]:
    """Of every run; its path where two have the same name."""
    names = [source.name for source in sources]
    return [str(source.path) if names.count(source.name) > 1 else source.name for source in sources]


def _shown(source: Source) -> dict[str, list[list[float]]]:
    """The curves of the charts, as steps and values; what is not finite cannot be drawn."""
    shown: dict[str, list[list[float]]] = {}
    for name in CURVES:
        points = sorted((step, value) for step, value in source.curves.get(name, {}).items() if math.isfinite(value))
        if points:
            shown[name] = [[step for step, _ in points], [value for _, value in points]]
    return shown


def _metric(name: str) -> dict[str, str]:
    return {"name": name, "title": CURVES[name], "unit": METRICS[name].unit, "meaning": METRICS[name].meaning}
