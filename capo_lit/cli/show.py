"""What commands show and write: progress on standard error, tables on standard output, jsonl."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from capo_lit.core.files import write_atomic

_Item = TypeVar("_Item")


def tracked(
    items: Iterable[_Item], doing: str, total: int | None = None, told: Callable[[], str] = str
) -> Iterator[_Item]:
    """Pass items on, with a bar on standard error if that is a terminal.

    Args:
        items: to pass on.
        doing: what is done to them.
        total: how many there are, if it is known.
        told: what to say beside the bar.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, TextColumn("{task.fields[told]}"), console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(doing, total=total, told="")
        for item in items:
            yield item
            bar.update(task, advance=1, told=told())


def show_table(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]], caption: str | None = None) -> None:
    """Print a table; its first column is text, the others are numbers."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False).print(table)


def write_jsonl(rows: Iterable[Mapping[str, Any]], output: Path | None) -> None:
    """Write rows as they come: to standard output, or to a file that is there only when all have come.

    Raises:
        DataError: if the disk refuses the file.
    """

    def dump(file: TextIO) -> None:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()

    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8") as file:
            dump(file)

    if output is None:
        dump(sys.stdout)
    else:
        write_atomic(output, write, "--output")
