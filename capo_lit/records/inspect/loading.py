"""Opens the records of runs."""

from pathlib import Path

import pyarrow as pa

from capo_lit.core.errors import DataError
from capo_lit.records.inspect.rollouts import Rollouts
from capo_lit.records.schema import joined, read_records, record_files, settings_of, with_settings


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
            settings = [{**one, "run": str(path)} for one in settings_of(tables[index])]
            renamed = tables[index].set_column(tables[index].schema.get_field_index("run"), "run", column)
            tables[index] = with_settings(renamed, settings)
    whole = joined(tables)
    return Rollouts(whole, tuple(range(len(whole))))


def _files(path: Path, steps: range | None) -> Path | list[Path]:
    folder = path / "records" if (path / "records").is_dir() else path
    found = [file.path for file in record_files(folder) if steps is None or file.step in steps]
    return found if steps is not None and found else folder
