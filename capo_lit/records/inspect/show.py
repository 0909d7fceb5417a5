"""A record that shows itself: as HTML in a notebook, in colours in a terminal."""

from typing import TYPE_CHECKING

from capo_lit.records.inspect.html import STYLE, rollout_html
from capo_lit.records.inspect.record import Record

if TYPE_CHECKING:
    from rich.console import Group


class ShownRecord(Record):
    """The record that `load` gives; `display(record)` and `rich.print(record)` draw it."""

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>{rollout_html(self)}"

    def __rich__(self) -> "Group":
        # Late: a notebook needs no rich.
        from capo_lit.records.inspect.text import rollout_text

        return rollout_text(self)
