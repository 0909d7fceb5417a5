"""Open the records of runs: filter them, find what is worth reading, render it, and replay it under another vote.

runs = load("runs/mine/capo")
for record in runs.where(outcome="right").most_disagreed(3):
    rich.print(record)  # in a notebook: display(record)
"""

from pathlib import Path

import pyarrow as pa

from capo_lit.errors import DataError
from capo_lit.inspection_changes import PromptHistory, Visit
from capo_lit.inspection_html import STYLE, critiques_html, pair_html, rollout_html, steps_html, votes_html
from capo_lit.inspection_quality import Labelled, labelled_critiques, vote_quality
from capo_lit.inspection_record import WRONG_FROM, Outcome, Record, Step, Token, outcome_word
from capo_lit.inspection_rollouts import Replayed, Rollouts, Truth
from capo_lit.inspection_show import ShownRecord
from capo_lit.records import read_records, record_files

__all__ = [
    "STYLE",
    "WRONG_FROM",
    "Labelled",
    "Outcome",
    "PromptHistory",
    "Record",
    "Replayed",
    "Rollouts",
    "ShownRecord",
    "Step",
    "Token",
    "Truth",
    "Visit",
    "critiques_html",
    "labelled_critiques",
    "load",
    "outcome_word",
    "pair_html",
    "rollout_html",
    "steps_html",
    "vote_quality",
    "votes_html",
]


def load(*runs: Path | str, steps: range | None = None) -> Rollouts:
    """Read the records of runs.

    Args:
        runs: run folders (with records/ in them), record directories, or single record files.
        steps: reads only the files of these steps, of a long run; of single files, it leaves out nothing.

    Returns:
        All rollouts. Where two of `runs` have one name, they are named by their paths.

    Raises:
        DataError: if one of them holds no records, or a file cannot be read.
    """
    if not runs:
        raise DataError("no runs", "at least one", "load", "runs")
    tables = [read_records(_files(Path(run), steps)) for run in runs]
    names = [sorted(set(table["run"].to_pylist())) for table in tables]
    all_names = [name for several in names for name in several]
    for index, (path, several) in enumerate(zip(runs, names, strict=True)):
        if any(all_names.count(name) > 1 for name in several):
            column = pa.array([str(path)] * len(tables[index]), pa.string())
            tables[index] = tables[index].set_column(tables[index].schema.get_field_index("run"), "run", column)
    whole = pa.concat_tables(tables)
    return Rollouts(whole, tuple(range(len(whole))))


def _files(path: Path, steps: range | None) -> Path | list[Path]:
    folder = path / "records" if (path / "records").is_dir() else path
    found = [file.path for file in record_files(folder) if steps is None or file.step in steps]
    return found if steps is not None and found else folder
