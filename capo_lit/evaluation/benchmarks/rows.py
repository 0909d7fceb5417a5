"""The rows of a benchmark, from the hub or from a local file, in one format.

A local file is the one file `test*.jsonl` or `test*.parquet` in `<data_dir>/<benchmark>/`. Its rows have the fields of
the benchmark's hub data set, or these:

    answers:  {"problem" or "question": text, "answer": text or number}
    choices:  {"problem" or "question": text, "choices": [text, ...], "answer": letter, "A" for the first choice}
"""

import random
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capo_lit.core.errors import DataError
from capo_lit.core.seeding import derive_seed
from capo_lit.data.rows import Row, read_rows
from capo_lit.data.sources import HubSource
from capo_lit.data.values import text_field

if TYPE_CHECKING:
    from datasets import Dataset

LETTERS = string.ascii_uppercase


def load(
    benchmark: str,
    hub: Mapping[str, Any],
    kind: str = "answers",
    data_dir: str | None = None,
    **metadata: Any,
) -> "dict[str, Dataset]":
    """The test split: what lm-eval takes as a task's `custom_dataset`.

    Args:
        benchmark: its folder under data_dir.
        hub: path, name, split and revision of the hub data set, as HubSource takes them.
        kind: "answers" or "choices".
        data_dir: the folder of local files; without it the hub is asked.
        metadata: the task's other metadata, which lm-eval hands on as well.

    Raises:
        DataError: if a file, row or field cannot be used.
    """
    from datasets import Dataset

    read = {"answers": _answer_row, "choices": _choice_row}[kind]
    rows = _local(Path(data_dir), benchmark) if data_dir else _hub(hub)
    return {"test": Dataset.from_list([read(row, where) for where, row in rows])}


def _local(data_dir: Path, benchmark: str) -> Iterable[tuple[str, Row]]:
    folder = data_dir / benchmark
    found = sorted([*folder.glob("test*.jsonl"), *folder.glob("test*.parquet")])
    if len(found) != 1:
        names = [path.name for path in found]
        raise DataError(f"{len(found)} files {names}", "one file test*.jsonl or test*.parquet", str(folder), "data_dir")
    return ((f"{found[0]}:{number}", row) for number, row in read_rows(found[0]))


def _hub(hub: Mapping[str, Any]) -> Iterable[tuple[str, Row]]:
    source = HubSource(**hub)
    try:
        rows = source.rows()
    except DataError as error:
        change = "data_dir, to read local files; or let the hub be reached"
        raise DataError(error.got, error.expected, error.where, change) from error
    return ((f"{source.path}[{source.split}] row {i}", row) for i, row in enumerate(rows, start=1))


def _answer_row(row: Row, where: str) -> dict[str, str]:
    field = _first(row, ("answer", "final_answer", "Answer"), where)
    answers = row[field] if isinstance(row[field], list) else [text_field(row, field, where, "the row")]
    return {"problem": _problem(row, where), "answer": ", ".join(str(answer) for answer in answers)}


def _choice_row(row: Row, where: str) -> dict[str, Any]:
    problem = _problem(row, where)
    if "Correct Answer" in row:  # GPQA, where the right choice always comes first
        fields = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
        texts = [text_field(row, field, where, "the row") for field in fields]
        # Each problem in an order of its own, which never changes.
        order = random.Random(derive_seed("choices", problem)).sample(range(len(texts)), len(texts))
        choices, right = [texts[place] for place in order], order.index(0)
    else:
        found = row[_first(row, ("choices", "options"), where)]
        named = isinstance(found, Mapping)  # ARC names its choices, some of them by digits
        choices, labels = (found["text"], found["label"]) if named else (found, LETTERS)
        answer = text_field(row, _first(row, ("answer", "answerKey"), where), where, "the row")
        right = labels.index(answer) if answer in labels else len(choices)
        if right >= len(choices):
            raise DataError(f"answer {answer!r}", f"one of {list(labels[: len(choices)])}", where)
    lines = [f"({letter}) {choice.strip()}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return {"problem": problem, "choices": "\n".join(lines), "count": len(choices), "answer": LETTERS[right]}


def _problem(row: Row, where: str) -> str:
    return text_field(row, _first(row, ("problem", "question", "Problem", "Question"), where), where, "the row").strip()


def _first(row: Row, fields: Sequence[str], where: str) -> str:
    """The first of these fields that a row has."""
    for field in fields:
        if field in row:
            return field
    raise DataError(f"fields {sorted(row)}", f"one of {list(fields)}", where)
