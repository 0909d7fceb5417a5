"""A rollout for a terminal: the same as the HTML, in rich's colours."""

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from capo_lit.batch.facts import Critique
from capo_lit.records.inspect.record import Ballot, Record, Step, Token, one_line_breaks

_MARKS: dict[Ballot, Text] = {
    "wrong": Text("✗", "red"),
    "right": Text("✓", "green"),
    "abstained": Text("?", "dim"),
    "called off": Text("·", "dim"),
}


def rollout_text(record: Record) -> Group:
    """All of one rollout.

    Args:
        record: the rollout.

    Returns:
        What rich prints: facts, problem, steps by verdict with tokens by advantage, votes, critiques. Text of models is
        never read as markup, and its control characters are not sent to the terminal.
    """
    parts: list[RenderableType] = [
        _plain(f"{record.title}: {record.outcome} answer", "bold"),
        _plain(record.row["problem"], "italic"),
        _steps(record),
    ]
    if record.judged:
        parts += [_votes(record), Columns([_critique(i, one) for i, one in enumerate(record.critiques)])]
    return Group(*parts)


def _steps(record: Record) -> Table:
    shown = Table(show_header=False, box=None, padding=(0, 1))
    for step in record.steps:
        shown.add_row(*_verdict(step), _tokens(step.tokens, record.peak_advantage))
    loose = [token for token in record.tokens if token.step < 0]
    if loose:
        shown.add_row("", "", _tokens(loose, record.peak_advantage))
    return shown


def _verdict(step: Step) -> tuple[Text, Text]:
    if step.error is None:
        style, words = "dim", "not judged"
    else:
        style, words = ("red", "wrong") if step.called_wrong else ("green", "right")
        words += f" ({step.error:.2f})" if 0 < step.error < 1 else ""
    return Text(f"{step.index}", style), Text(words, style)


def _tokens(tokens: tuple[Token, ...] | list[Token], scale: float) -> Text:
    line = Text()
    for token in tokens:
        words = "<end>" if token.special else one_line_breaks(token.text)
        line.append(_plain(words, _colour(token.advantage, scale)))
    return line


def _colour(advantage: float | None, scale: float) -> str:
    if not advantage or not scale:
        return ""
    side = "blue" if advantage > 0 else "dark_orange"
    return f"bold {side}" if abs(advantage) > scale / 2 else side


def _votes(record: Record) -> Table:
    shown = Table(title="votes", title_justify="left")
    for name in ("step", *map(str, range(len(record.critiques))), "step error"):
        shown.add_column(name, justify="right")
    for step, ballots in zip(record.steps, record.votes, strict=True):
        shown.add_row(f"{step.index}", *(_MARKS[ballot] for ballot in ballots), f"{step.error:.2g}")
    return shown


def _critique(number: int, critique: Critique) -> Panel:
    silent = f" ({critique.cause})" if critique.wrong is None else ""
    return Panel(_plain(critique.reply), title=_plain(f"critique {number}{silent}"), expand=False)


def _plain(words: str, style: str = "") -> Text:
    """Text as it is, without the control characters that a terminal obeys."""
    return Text("".join(c if c in "\n\t" or c.isprintable() else "�" for c in words), style)
