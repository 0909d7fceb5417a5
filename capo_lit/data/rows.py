"""Rows of jsonl and parquet files, with errors that name file, line and field."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from capo_lit.errors import DataError

Row = Mapping[str, Any]


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Rows of a .jsonl, .ndjson, .json (one object a line) or .parquet file.

    Args:
        path: the file.

    Yields:
        Line number (parquet: row number) from 1, and the row.

    Raises:
        DataError: if the file is missing, of another kind, or has a line that is no JSON object.
    """
    if not path.is_file():
        raise DataError("no such file", "a readable file", str(path), "the source's path")
    if path.suffix in (".jsonl", ".ndjson", ".json"):
        return read_jsonl(path)
    if path.suffix == ".parquet":
        return _read_parquet(path)
    raise DataError(f"a file ending in '{path.suffix}'", ".jsonl or .parquet", str(path), "the source's path")


def read_jsonl(path: Path) -> Iterator[tuple[int, Row]]:
    """Line number from 1 and object of every line that is not blank.

    Raises:
        DataError: if a line is no UTF-8 or no JSON object, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if raw.strip():
                    yield number, _parse(raw, f"{path}:{number}")
    except OSError as error:
        raise DataError(f"{error.strerror or error}", "a readable file", str(path)) from error


def text_field(row: Row, field: str, where: str, setting: str) -> str:
    """The text in a field of a row; whole numbers and decimals are taken as they are written.

    Args:
        row: the row.
        field: its field.
        where: file and line, for the message.
        setting: the setting that chose the field, for the message.

    Raises:
        DataError: if the field is missing, or is neither text nor a number.
    """
    if field not in row:
        raise DataError(f"fields {sorted(row)}", f"a field '{field}'", where, f"{setting}, or add the field to the row")
    value = row[field]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(
        f"{type(value).__name__} {str(value)[:60]!r} in field '{field}'", "text or a number", where, f"{setting}"
    )


def _parse(raw: bytes, where: str) -> Row:
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text", where) from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"invalid JSON ({error})", "one JSON object a line", where) from error
    if not isinstance(row, dict):
        raise DataError(f"a JSON {type(row).__name__}", "a JSON object", where)
    return row


def _read_parquet(path: Path) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{error}", "a parquet file", str(path)) from error
