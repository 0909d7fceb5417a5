"""The output of `capo critique`: a parquet file at the end, and until then a journal that survives a kill."""

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from capo_lit.core.errors import ConfigError, DataError
from capo_lit.core.files import write_atomic
from capo_lit.evaluation.judging.offline import RULES, failed
from capo_lit.records.schema import CRITIQUE, flush

Result = dict[str, Any]
Settings = Mapping[str, Any]

_SETTINGS_KEY = b"capo_lit.critique.settings"
_ERRORS = pa.list_(pa.float64())
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "key": pa.string(),
        "problem": pa.string(),
        "steps": pa.list_(pa.string()),
        "label": pa.int32(),  # null: the row has none
        "critiques": pa.list_(CRITIQUE),
        "vote": pa.string(),
        "step_error": _ERRORS,
        "first_wrong": pa.int32(),  # null: no valid critique
        "valid": pa.int32(),
        "abstained": pa.int32(),
        "agreement": pa.float64(),
        # Null where the rule cannot be applied to these critiques.
        **{f"step_error_{rule}": _ERRORS for rule in RULES},
        **{f"first_wrong_{rule}": pa.int32() for rule in RULES},
    }
)


class CritiqueFile:
    """The results of one file of solutions under one judge; a context that holds the only right to write them.

    Every result goes to a journal beside the output when it is settled; `finish` turns all into the parquet file. What
    either of them holds is known again when the same output is opened later.

    Args:
        output: the parquet file; the journal is the same name with .journal.
        settings: what the results depend on; results under other settings are refused.

    Attributes:
        done: results by key. Those with a critique that failed are left out: the judge has not judged them.

    Raises:
        ConfigError: on entry, if the results that are there were made under other settings.
        DataError: on entry, if they cannot be read or another process writes them.
    """

    def __init__(self, output: Path, settings: Settings) -> None:
        self.output, self.settings = output, dict(settings)
        self.journal = output.with_name(output.name + ".journal")
        self.done: dict[str, Result] = {}

    def __enter__(self) -> Self:
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.journal.open("a+b")
        except OSError as error:
            raise DataError(f"{error.strerror or error}", "a place to write", str(self.journal), "--output") from error
        try:
            self._lock()
            results = [*self._read_output(), *self._read_journal()]
        except BaseException:
            self._file.close()
            raise
        self.done = {row["key"]: row for row in results if not any(failed(c["cause"]) for c in row["critiques"])}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, row: Result) -> None:
        """Write one result, so that a kill after the return does not lose it."""
        self._write(row)
        self.done[row["key"]] = row

    def finish(self, rows: Iterable[Result]) -> None:
        """Write the parquet file, whole or not at all, and remove the journal.

        Args:
            rows: results in the order of the output.
        """
        metadata = {_SETTINGS_KEY: json.dumps(self.settings)}
        table = pa.Table.from_pylist(list(rows), schema=SCHEMA.with_metadata(metadata))

        def write(part: Path) -> None:
            pq.write_table(table, part, compression="zstd")
            flush(part)  # before the journal goes, so that a power cut leaves one of them

        write_atomic(self.output, write, "--output")
        self.journal.unlink()

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking another process may have finished and removed it.
            mine = os.fstat(self._file.fileno()).st_nlink > 0
        except BlockingIOError:
            mine = False
        if not mine:
            got = "a journal that another process writes"
            raise DataError(got, "one process for each output", str(self.journal), "--output")

    def _read_output(self) -> list[Result]:
        if not self.output.exists():
            return []
        try:
            table = pq.read_table(self.output)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{error}", "an output of `capo critique`", str(self.output), "--output") from error
        found = (table.schema.metadata or {}).get(_SETTINGS_KEY)
        if found is None:
            raise DataError("a file of another origin", "an output of `capo critique`", str(self.output), "--output")
        self._compare(json.loads(found), self.output)
        rows: list[Result] = table.to_pylist()
        return rows

    def _read_journal(self) -> list[Result]:
        """The results in the journal; the last line of a killed writer is cut off if it is torn."""
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        if not whole:
            self._write({"settings": self.settings})
            return []
        try:
            head, *rows = map(json.loads, whole.splitlines())
            self._compare(head["settings"], self.journal)
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise DataError(
                f"a journal that is damaged ({error})",
                "the journal of `capo critique`",
                str(self.journal),
                "remove it; what it holds is then judged again",
            ) from error
        return rows

    def _compare(self, found: Settings, where: Path) -> None:
        names = sorted({*found, *self.settings})
        missing = "(not set)"
        pairs = {name: (found.get(name, missing), self.settings.get(name, missing)) for name in names}
        differing = [f"{name} {was!r}, now {now!r}" for name, (was, now) in pairs.items() if was != now]
        if differing:
            raise ConfigError(
                f"results made with {'; '.join(differing)}", "the same settings", str(where), "--output, to begin anew"
            )
