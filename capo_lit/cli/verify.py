"""`capo verify`: outcomes of a file of answers."""

import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any

from capo_lit.cli.command import command
from capo_lit.cli.show import tracked, write_jsonl
from capo_lit.core.errors import DataError
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


def verify(
    file: Annotated[Path, {"metavar": "FILE.jsonl"}],
    output: Annotated[Path | None, {"metavar": "OUT.jsonl"}] = None,
    gold_field: str = "gold",
    prediction_field: str = "prediction",
    timeout_s: float = 5.0,
    workers: int = 2,
) -> None:
    r"""Compare predictions with gold answers.

    Writes every row with a field 'outcome' added: 1.0 right, 0.0 wrong, null unknown (the comparison ran out of time or
    memory). A prediction is a whole response or a bare answer. What counts as its answer: the last \boxed{...}; else
    the last line that starts with ####; else the value stated after 'answer is'; else, if it is one short line without
    words, all of it. Thinking is left out. A response without an answer is wrong. docs/reference/answers.md says how
    answers are read and compared.

    Args:
        file: one object a line with a gold and a prediction
        output: write here, not to standard output
        gold_field: field of the gold answer
        prediction_field: field of the prediction
        timeout_s: deadline of one answer, seconds
        workers: worker processes
    """
    counts: Counter[str] = Counter()

    def counted() -> Iterator[dict[str, Any]]:
        rows = verify_file(file, verifier, gold_field, prediction_field)
        for row in tracked(rows, "verifying", _lines(file)):
            counts[_NAMES[row["outcome"]]] += 1
            yield row

    with Verifier(timeout_s, workers) as verifier:
        write_jsonl(counted(), output)
        causes = ", ".join(f"{name} {count}" for name, count in sorted(verifier.counters.items()))
    total = counts.total()
    parts = ", ".join(f"{name} {counts[name]} ({counts[name] / max(total, 1):.1%})" for name in _NAMES.values())
    sys.stderr.write(f"{total} rows: {parts}\nhow they ended: {causes or 'none'}\n")


def _with_outcome(row: Row, future: "Future[float | None]") -> dict[str, Any]:
    return {**row, "outcome": future.result()}


def _lines(path: Path) -> int | None:
    if not path.is_file():
        return None  # the reader says what is wrong with it
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


main = command(verify)
