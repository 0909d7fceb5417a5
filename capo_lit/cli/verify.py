"""`capo verify`: outcomes of a file of answers."""

import argparse
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TextIO

from capo_lit.core.errors import CapoError, DataError
from capo_lit.data.rows import Row, read_jsonl
from capo_lit.data.values import text_field
from capo_lit.verifier.pool import Verifier

_IN_FLIGHT = 1000  # rows submitted ahead of the one to be written, so that a slow answer holds up none behind it
_NAMES = {1.0: "right", 0.0: "wrong", None: "unknown"}


def verify_file(
    path: Path, verifier: Verifier, gold_field: str = "gold", prediction_field: str = "prediction"
) -> Iterator[dict[str, Any]]:
    """Outcome of every row of a jsonl file, in order.

    Args:
        path: one JSON object a line.
        verifier: compares.
        gold_field: field of the gold answer.
        prediction_field: field of the response, or of its bare answer.

    Yields:
        The row with a field "outcome": 1.0, 0.0 or None (unknown).

    Raises:
        DataError: naming file, line and field, at the first row that cannot be used.
    """
    pending: deque[tuple[Row, Future[float | None]]] = deque()
    for number, row in read_jsonl(path):
        gold = text_field(row, gold_field, f"{path}:{number}", "--gold_field")
        prediction = text_field(row, prediction_field, f"{path}:{number}", "--prediction_field")
        if not gold.strip():
            raise DataError(f"an empty field '{gold_field}'", "a gold answer", f"{path}:{number}")
        pending.append((row, verifier.submit(gold, prediction)))
        while pending and (len(pending) >= _IN_FLIGHT or pending[0][1].done()):
            yield _with_outcome(*pending.popleft())
    while pending:
        yield _with_outcome(*pending.popleft())


def main(argv: list[str]) -> int:
    """Run `capo verify`.

    Args:
        argv: the arguments after `verify`.

    Returns:
        The exit status: 0, or 1 if a row cannot be used.
    """
    args = _parser().parse_args(argv)
    try:
        with Verifier(args.timeout_s, args.workers, args.memory_mb) as verifier:
            rows = _tracked(verify_file(args.file, verifier, args.gold_field, args.prediction_field), args.file)
            counts = _write(rows, args.output)
            causes = ", ".join(f"{name} {count}" for name, count in sorted(verifier.counters.items()))
    except CapoError as error:
        sys.stderr.write(f"capo verify: {error}\n")
        return 1
    except BrokenPipeError:  # the reader of standard output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    total = sum(counts.values())
    parts = ", ".join(f"{name} {counts[name]} ({counts[name] / max(total, 1):.1%})" for name in _NAMES.values())
    sys.stderr.write(f"{total} rows: {parts}\nhow they ended: {causes or 'none'}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="capo verify",
        description="Compare predictions with gold answers. Writes every row with a field 'outcome' added: 1.0 right, "
        "0.0 wrong, null unknown (the comparison ran out of time or memory).",
        epilog="A prediction is a whole response or a bare answer. What counts as its answer: the last \\boxed{...}; "
        "else the last line that starts with ####; else the value stated after 'answer is'; else, if it is one short "
        "line without words, all of it. Thinking is left out. A response without an answer is wrong. "
        "docs/reference/answers.md says how answers are read and compared.",
    )
    parser.add_argument("file", type=Path, metavar="FILE.jsonl", help="one object a line with a gold and a prediction")
    parser.add_argument("--output", type=Path, metavar="OUT.jsonl", help="write here, not to standard output")
    parser.add_argument("--gold_field", default="gold", help="field of the gold answer (default: gold)")
    parser.add_argument("--prediction_field", default="prediction", help="of the prediction (default: prediction)")
    parser.add_argument("--timeout_s", type=float, default=5.0, help="deadline of one answer, seconds (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--memory_mb", type=int, default=1024, help="memory one answer may take, MiB (default: 1024)")
    return parser


def _with_outcome(row: Row, future: "Future[float | None]") -> dict[str, Any]:
    return {**row, "outcome": future.result()}


def _tracked(rows: Iterator[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    from rich.console import Console
    from rich.progress import track

    try:
        with path.open("rb") as file:
            total = sum(1 for line in file if line.strip())
    except OSError:
        total = 0  # the reader says what is wrong with the file
    yield from track(rows, "verifying", total=total, console=Console(stderr=True), disable=not sys.stderr.isatty())


def _write(rows: Iterable[dict[str, Any]], output: Path | None) -> Counter[str]:
    if output is None:
        return _dump(rows, sys.stdout)
    part = output.with_name(output.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            counts = _dump(rows, file)
        part.replace(output)  # a run that fails leaves no half file under the final name
    except OSError as error:
        raise DataError(f"{error.strerror or error}", "a place to write", str(output), "--output") from error
    finally:
        part.unlink(missing_ok=True)
    return counts


def _dump(rows: Iterable[dict[str, Any]], file: TextIO) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[_NAMES[row["outcome"]]] += 1
        file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.flush()
    return counts
