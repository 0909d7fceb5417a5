"""The table of a sweep: one row per job, with its words, how it ended, its last evaluation, its tokens and time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capo_lit.core.errors import DataError
from capo_lit.records.runs import REFUSED, Run, processes, read_result, read_run

Row = dict[str, Any]
_FIRST = ("job",)
_LAST = ("status", "step", "rollout_tokens", "judge_tokens", "seconds", "error")
_JUDGE_TOKENS = ("critique/judge_tokens_run", "outcome/judge_tokens_run")

_NOTHING: Row = {"step": None, "rollout_tokens": None, "judge_tokens": None}


def job_rows(folder: Path) -> list[Row]:
    """The rows of all jobs at or under a folder, in order of their numbers.

    Args:
        folder: of the sweep.

    Returns:
        Per job: job (its folder), a column for each word (experiment, seed ...), status (ok or failed), step, the last
        value of every val/* metric, rollout_tokens, judge_tokens, seconds and error.
    """
    folders = [file.parents[1] for file in folder.glob("**/.hydra/overrides.yaml")]
    return [_row(job, folder) for job in sorted(folders, key=_number)]


def _number(job: Path) -> tuple[int, str]:
    return (int(job.name) if job.name.isdigit() else -1, str(job))


def _row(job: Path, folder: Path) -> Row:
    import yaml

    row: Row = {"job": str(job.relative_to(folder))}
    for word in yaml.safe_load((job / ".hydra" / "overrides.yaml").read_text()):
        key, _, value = word.lstrip("+~").partition("=")
        row[key] = value
    if (job / REFUSED).exists():  # what lies here is another job's
        return row | {"status": "failed", **_NOTHING, "seconds": None, "error": (job / REFUSED).read_text().strip()}
    result = read_result(job) or {"error": "it was stopped", "seconds": None}
    row["status"] = "failed" if result["error"] else "ok"
    try:
        run = read_run(job)
    except DataError:  # a log that cannot be read; the report of that run alone says what ails it
        return row | _NOTHING | {"seconds": result["seconds"], "error": result["error"]}
    row |= _measures(run) if run.curves else _NOTHING  # if it failed before it logged anything, `error` says why
    return row | {"seconds": result["seconds"], "error": result["error"]}


def _measures(run: Run) -> Row:
    curves, factor = run.curves, processes(run.config, run.curves)
    last = {name: curve[max(curve)] for name, curve in sorted(curves.items()) if name.startswith("val/")}
    judged = [curves[name] for name in _JUDGE_TOKENS if name in curves]
    return {
        "step": max(max(curve) for curve in curves.values()),
        **last,
        "rollout_tokens": int(factor * sum(curves.get("rollout/tokens", {}).values())),
        "judge_tokens": int(factor * sum(curve[max(curve)] for curve in judged)),
    }


def write_table(rows: Sequence[Row], folder: Path) -> str:
    """Write summary.parquet and summary.md into a folder.

    Returns:
        The text of summary.md.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: _column([row.get(name) for row in rows]) for name in _names(rows)}
    pq.write_table(pa.table(columns), folder / "summary.parquet")
    text = f"{len(rows)} jobs, {sum(row['status'] != 'ok' for row in rows)} failed: {folder}\n\n"
    shared = {name: values[0] for name, values in columns.items() if _is_word(name) and _all_same(values)}
    if shared:
        text += f"All jobs: {' '.join(f'{name}={value}' for name, value in shared.items())}\n\n"
    shown = {name: values for name, values in columns.items() if name not in shared}
    lines = [
        "| " + " | ".join(shown) + " |",
        "|" + "---|" * len(shown),
        *("| " + " | ".join(map(_cell, values)) + " |" for values in zip(*shown.values(), strict=True)),
    ]
    text += "\n".join(lines) + "\n"
    (folder / "summary.md").write_text(text)
    return text


def _is_word(name: str) -> bool:
    return name not in _FIRST + _LAST and not name.startswith("val/")


def _all_same(values: Sequence[Any]) -> bool:
    return len(values) > 1 and all(value == values[0] for value in values)


def _names(rows: Sequence[Row]) -> list[str]:
    """All columns: words first, figures and the error last."""
    names = dict.fromkeys(name for row in rows for name in row)
    words = [name for name in names if _is_word(name)]
    return [*_FIRST, *words, *_LAST[:2], *(name for name in names if name.startswith("val/")), *_LAST[2:]]


def _column(values: list[Any]) -> list[Any]:
    """Words are text; where all values of a column are whole numbers, or numbers, they become such."""
    for kind in (int, float):
        try:
            return [kind(value) if isinstance(value, str) else value for value in values]
        except ValueError:
            continue
    return values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        if 0 < abs(value) < 1e-3:
            return f"{value:.3g}"
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value).replace("|", "\\|")
