"""Records: one parquet file per rollout step, one row per rollout, with all that its credit was computed from.

A record of an earlier step is never changed: a file that is there already is an error. A file's metadata has the
schema's version and the settings that its credit was computed under.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capo_lit.core import files
from capo_lit.core.errors import DataError

SCHEMA_VERSION = 2
_READABLE = ("1", "2")
_SINCE_2 = ("outcome_critiques",)  # null in what is read of version 1
_VERSION_KEY, _SETTINGS_KEY = b"capo_lit.records.schema_version", b"capo_lit.records.settings"
_FILE_NAME = re.compile(r"step-(\d{8,})(?:-rank-(\d{4,}))?\.parquet")
_TOKEN_FLOATS = pa.list_(pa.float32())

# One reply of a judge; files of judged solutions hold the same.
CRITIQUE = pa.struct(
    {
        "reply": pa.string(),
        "wrong": pa.list_(pa.int32()),  # null: abstained
        "cause": pa.string(),
        "prompt_tokens": pa.int32(),
        "completion_tokens": pa.int32(),
        "seconds": pa.float64(),
    }
)
SCHEMA = pa.schema(
    {
        "schema_version": pa.int32(),
        "run": pa.string(),
        "step": pa.int64(),
        "rank": pa.int32(),
        "row": pa.int32(),
        "group": pa.int32(),
        "sample": pa.int32(),
        "uid": pa.string(),
        "problem": pa.string(),
        "answer": pa.string(),
        "reference": pa.string(),  # null: the source has none
        "prompt_ids": pa.list_(pa.int32()),
        "response_ids": pa.list_(pa.int32()),
        "pieces": pa.list_(pa.string()),
        "special": pa.list_(pa.bool_()),
        "text": pa.string(),
        "finish_reason": pa.string(),
        "policy_version": pa.int64(),  # null: the engine never syncs
        "engine_logprobs": _TOKEN_FLOATS,  # null: the engine gives none
        "trainer_logprobs": _TOKEN_FLOATS,  # this and the other three of the update: null in predictions
        "outcome": pa.float32(),  # null: unknown
        "spans": pa.list_(pa.struct({"start": pa.int32(), "end": pa.int32()})),
        # From here to critiques: null if no judge was asked.
        "step_error": pa.list_(pa.float32()),
        "valid": pa.int32(),
        "abstained": pa.int32(),
        "agreement": pa.float32(),
        "critiques": pa.list_(CRITIQUE),
        "step_of_token": pa.list_(pa.int32()),
        "token_rewards": _TOKEN_FLOATS,
        "advantages": _TOKEN_FLOATS,
        "seconds": pa.float64(),
        "outcome_critiques": pa.list_(CRITIQUE),  # null: no model was asked whether the answer is right
    },
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)


@dataclass(frozen=True, slots=True, order=True)
class RecordFile:
    """A record file; files sort by step, then rank."""

    step: int
    rank: int
    path: Path


def file_name(step: int, rank: int = 0, world_size: int = 1) -> str:
    """Name of the record file of a step; with a rank where several processes write."""
    return f"step-{step:08d}.parquet" if world_size == 1 else f"step-{step:08d}-rank-{rank:04d}.parquet"


def record_files(directory: Path) -> list[RecordFile]:
    """The record files of a directory by step and rank, without temporary ones."""
    matches = [(_FILE_NAME.fullmatch(path.name), path) for path in directory.glob("step-*.parquet")]
    return sorted(RecordFile(int(match[1]), int(match[2] or 0), path) for match, path in matches if match)


def with_settings(table: pa.Table, settings: Sequence[dict[str, Any]]) -> pa.Table:
    """The table with the settings of its credit, each with `run` and `step`; they become metadata of its file."""
    if not settings:
        return table
    unique = {(one["run"], one["step"]): one for one in settings}
    return table.replace_schema_metadata({**table.schema.metadata, _SETTINGS_KEY: json.dumps([*unique.values()])})


def settings_of(table: pa.Table) -> list[dict[str, Any]]:
    """The settings that a table's credit was computed under, one of each run and step.

    Returns:
        run, step, w_whole, w_process (as a judge gate left it), estimator, vote and k, null where there was no such
        setting; nothing for records that were written without.
    """
    found: list[dict[str, Any]] = json.loads((table.schema.metadata or {}).get(_SETTINGS_KEY, b"[]"))
    return found


def write_atomic(table: pa.Table, path: Path) -> None:
    """Write a parquet file that is there whole or not at all, whenever the process ends; see `flush` for power cuts.

    Raises:
        DataError: if `path` exists; it is left as it is.
    """
    if path.exists():
        raise DataError(
            "a record file that exists",
            "a new file: records are never overwritten",
            str(path),
            "resume with --ckpt_path last or choose another --trainer.default_root_dir",
        )
    files.write_atomic(path, lambda part: pq.write_table(table, part, compression="zstd", use_dictionary=True))


def flush(*paths: Path) -> None:
    """Make files, and the names in folders, survive a power cut; this waits for the disk."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def set_aside(directory: Path, first_step: int) -> Path | None:
    """Move the records of `first_step` and later, which a killed run wrote and a resumed one writes again.

    They go beside the directory: many readers of parquet take whatever a directory holds, at any depth.

    Returns:
        The new directory <directory>-superseded-<n> that holds them, or None if there were none.
    """
    files = [file for file in record_files(directory) if file.step >= first_step]
    if not files:
        return None
    number = 0
    while (aside := directory.with_name(f"{directory.name}-superseded-{number}")).exists():
        number += 1
    aside.mkdir()
    for file in files:
        os.replace(file.path, aside / file.path.name)
    flush(aside, directory, directory.parent)
    return aside


def remove_leftovers(directory: Path) -> None:
    """Delete the temporary files of a writer that was killed."""
    for path in directory.glob(".step-*.parquet.*.tmp"):
        path.unlink(missing_ok=True)


def read_records(paths: Path | str | Sequence[Path | str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read record directories (or single files) into one table.

    Args:
        paths: one or several; of a directory, temporary files are left out.
        columns: names to read; all by default.

    Returns:
        Table in the order of `paths`, then step, rank and row.

    Raises:
        DataError: if a path holds no records, a file cannot be read, or is of another schema version.
    """
    several = [paths] if isinstance(paths, str | Path) else list(paths)
    schema = SCHEMA if columns is None else pa.schema([_field(name) for name in columns], SCHEMA.metadata)
    tables = [_read_file(file, schema) for path in several for file in _files_of(Path(path))]
    return joined(tables) if tables else schema.empty_table()


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of records one after the other, with the settings of all."""
    settings = [one for table in tables for one in settings_of(table)]
    whole = pa.concat_tables([table.replace_schema_metadata(SCHEMA.metadata) for table in tables])
    return with_settings(whole, settings)


def _files_of(path: Path) -> list[Path]:
    files = [path] if path.is_file() else [file.path for file in record_files(path)]
    if not files:
        raise DataError("no files step-*.parquet", "the records of a run", str(path), "the path of the records")
    return files


def _field(name: str) -> pa.Field:
    if name not in SCHEMA.names:
        raise DataError(f"column {name!r}", f"columns among {', '.join(SCHEMA.names)}", "read_records", "columns")
    return SCHEMA.field(name)


def _read_file(path: Path, schema: pa.Schema) -> pa.Table:
    with _readable(path), pq.ParquetFile(path) as file:
        got = (file.schema_arrow.metadata or {}).get(_VERSION_KEY, b"none").decode()
        if got not in _READABLE:
            raise DataError(
                f"schema version {got}",
                f"schema version {' or '.join(_READABLE)}",
                str(path),
                "read it with the version of capo_lit that wrote it",
            )
        table = file.read(columns=schema.names)
        for name in _SINCE_2:
            if got == "1" and name in schema.names:
                table = table.append_column(name, pa.nulls(len(table), SCHEMA.field(name).type))
        return with_settings(table.select(schema.names).cast(schema), settings_of(file.schema_arrow.empty_table()))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"a file that cannot be read ({error})", "a parquet file of records", str(path)) from error
