"""Rows of files: jsonl, JSON, csv, tsv and parquet, with errors that name the file and the line."""

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from capo_lit.core.errors import DataError

Row = Mapping[str, Any]
Numbered = Iterator[tuple[int, Row]]


def read_rows(path: Path) -> Numbered:
    """Rows of a file, by its ending (ENDINGS, in any case); all but parquet may be packed with gzip (.gz).

    Args:
        path: the file.

    Yields:
        A number from 1 that finds the row (the line it starts at; its place in a JSON array or in parquet), and the
        row.

    Raises:
        DataError: if the file is missing, of another kind, or broken.
    """
    if not path.is_file():
        raise DataError("no such file", "a readable file", str(path), "the source's path")
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    packed = endings[-1:] == [".gz"]
    ending = "".join(endings[-2:-1] if packed else endings[-1:])
    if ending not in ENDINGS or (packed and ending == ".parquet"):
        raise DataError(
            f"a file ending in '{ending}{'.gz' if packed else ''}'",
            f"one of {', '.join(ENDINGS)} (all but .parquet also with .gz)",
            str(path),
            "the source's path",
        )
    return ENDINGS[ending](path)


def read_jsonl(path: Path) -> Numbered:
    """Line number from 1 and object of every line that is not blank.

    Raises:
        DataError: if a line is no UTF-8 or no JSON object, or the file cannot be read.
    """
    with _opened(path) as file:
        for number, raw in enumerate(file, start=1):
            if raw.strip():
                yield number, _object(_parse(raw, f"{path}:{number}"), f"{path}:{number}")


def _read_json(path: Path) -> Numbered:
    """One array of objects, one object, or one object a line."""
    with _opened(path) as file:
        raw = file.read()
    lines = [line for line in raw.removeprefix(codecs.BOM_UTF8).splitlines() if line.strip()]
    if not lines:
        return
    if len(lines) > 1 and not lines[0].lstrip().startswith(b"[") and _is_json(lines[0]):
        yield from read_jsonl(path)
        return
    whole = _parse(raw, str(path))
    if isinstance(whole, list):
        for number, row in enumerate(whole, start=1):
            yield number, _object(row, f"{path}:{number}")
        return
    row = _object(whole, str(path))
    if tables := [key for key, value in row.items() if _is_table(value)]:
        raise DataError(
            f"one JSON object whose field '{tables[0]}' is a list of {len(row[tables[0]])} objects",
            "an array of objects, or one object a line",
            str(path),
            f"the file: write the list of '{tables[0]}' alone into it",
        )
    yield 1, row


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_table(value: Any) -> bool:
    """Whether a value is a list of objects that are no chat messages."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) and "role" not in v for v in value)


def _separated(delimiter: str) -> Callable[[Path], Numbered]:
    """A reader of lines of cells, the first of which is the header; quoted cells may hold line ends."""

    def read(path: Path) -> Numbered:
        with _opened(path) as file:
            try:
                cells = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), delimiter=delimiter, strict=True)
                yield from _under_header(cells, path)
            except UnicodeDecodeError as error:
                raise DataError(f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text", str(path)) from error
            except csv.Error as error:
                raise DataError(f"cells that cannot be told apart ({error})", "RFC 4180", str(path)) from error

    return read


def _under_header(lines: Any, path: Path) -> Numbered:
    header: list[str] = []
    start = 1
    for cells in lines:
        where, start = f"{path}:{start}", lines.line_num + 1
        if not cells:
            continue
        if not header:
            header = cells
            if doubled := [name for name in header if header.count(name) > 1]:
                raise DataError(f"several columns '{doubled[0]}'", "a header of different names", where)
        elif len(cells) != len(header):
            raise DataError(f"{len(cells)} cells", f"{len(header)}, as in the header", where, "quote cells with commas")
        else:
            yield int(where.rpartition(":")[2]), dict(zip(header, cells, strict=True))


def _read_parquet(path: Path) -> Numbered:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        number = 0
        for batch in file.iter_batches():
            for row in _as_written(batch).to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{error}", "a parquet file", str(path)) from error


def _as_written(batch: Any) -> Any:
    """A batch whose columns of 32-bit floats hold the shortest decimal number: 0.1, and not 0.10000000149."""
    import pyarrow as pa

    columns = [
        column.cast(pa.string()).cast(pa.float64()) if pa.types.is_float32(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if its name ends in .gz; what goes wrong in reading them is a DataError."""
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as file:
            yield file  # type: ignore[misc]
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{reason}", "a readable file", str(path)) from error


def _parse(raw: bytes, where: str) -> Any:
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"bytes that are not UTF-8 ({error.reason})", "UTF-8 text", where) from error
    except (ValueError, RecursionError) as error:  # ValueError: no JSON, or a number of thousands of digits
        raise DataError(f"invalid JSON ({error})", "JSON objects", where) from error


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        hint = "the ending to .json, if the whole file is one array" if isinstance(value, list) else ""
        raise DataError(f"a JSON {type(value).__name__}", "a JSON object", where, hint)
    return value


ENDINGS: Mapping[str, Callable[[Path], Numbered]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": _read_json,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".parquet": _read_parquet,
}
"""How a file is read, by its ending."""
