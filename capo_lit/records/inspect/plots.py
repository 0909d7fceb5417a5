"""The figures of the notebooks: a run over its steps, an advantage over its tokens, a judge's votes, runs compared."""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import pyarrow as pa

from capo_lit.evaluation.judging.step_scores import step_scores
from capo_lit.records.curves import Curve
from capo_lit.records.inspect.changes import PromptHistory
from capo_lit.records.inspect.record import Record, Token, one_line_breaks
from capo_lit.records.inspect.rollouts import Rollouts, Truth
from capo_lit.records.report.plots import COLOURS, add_legend, line_style, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_HISTORIES = 4
_FITS = 3  # characters under a bar
_Share = Callable[[Sequence[Record]], float | None]


def plot_story(rollouts: Rollouts) -> "Figure":
    """What a run was rewarded for, by training step: right answers, wrong steps, suspects, agreement.

    Args:
        rollouts: of one run or several, each a line.
    """
    panels: dict[str, _Share] = {
        "right answers (share of rollouts)": right_share,
        "steps called wrong (share)": wrong_step_share,
        "right answers with a step\ncalled wrong (share of right)": lucky_share,
        "disagreement of critiques\n(0: none, 0.5: most)": _disagreement,
    }
    return _panels({label: _by_step(rollouts, share) for label, share in panels.items()})


def plot_lucky(rollouts: Rollouts, truth: Truth) -> "Figure":
    """Right answers, and how many of them were reached by a truly wrong step, by training step.

    Args:
        rollouts: of several runs, each a line; they need not be judged.
        truth: the truly wrong steps of a record.
    """
    panels: dict[str, _Share] = {
        "right answers (share of rollouts)": right_share,
        "right answers with a truly\nwrong step (share of right)": lambda records: lucky_share(records, truth),
    }
    return _panels({label: _by_step(rollouts, share) for label, share in panels.items()})


def plot_judge(rollouts: Rollouts, truth: Truth) -> "Figure":
    """Precision and recall of the verdicts that a run trained on, by training step.

    Args:
        rollouts: judged ones; the policy that is judged changes from step to step.
        truth: the truly wrong steps of a record.
    """

    def share(score: str) -> _Share:
        def value(records: Sequence[Record]) -> float | None:
            found = [([step.error or 0.0 for step in one.steps], truth(one)) for one in records if one.judged]
            result: float | None = getattr(step_scores(found), score) if found else None
            return result

        return value

    panels = {f"{score} of wrong steps": _by_step(rollouts, share(score)) for score in ("precision", "recall")}
    return _panels(panels)


def plot_curves(curves: Mapping[str, Mapping[str, Curve]], metrics: Mapping[str, str]) -> "Figure":
    """Metrics that runs logged, over optimizer steps.

    Args:
        curves: by run, as `read_curves` gives them.
        metrics: name -> label of its axis.
    """
    return _panels(
        {label: {run: found.get(metric, {}) for run, found in curves.items()} for metric, label in metrics.items()}
    )


def plot_quality(quality: pa.Table) -> "Figure":
    """Precision and recall of every vote over the number of critiques.

    Args:
        quality: of `vote_quality`.
    """
    rows = quality.to_pylist()
    rules = list(dict.fromkeys(row["vote"] for row in rows))
    return _panels(
        {
            f"{name} of wrong steps": {
                rule: {row["k"]: row[name] for row in rows if row["vote"] == rule} for rule in rules
            }
            for name in ("precision", "recall")
        },
        xlabel="critiques that vote, k",
    )


def plot_tokens(records: Sequence[Record]) -> "Figure":
    """Reward and advantage of every token of a few rollouts, one line of panels each; steps called wrong are shaded."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = _figure(9, 1.9 * len(records))
    figure.set_layout_engine(ConstrainedLayoutEngine(hspace=0.08))
    grid = figure.subplots(len(records), 1, squeeze=False, sharey=True)[:, 0]
    for axis, record in zip(grid, records, strict=True):
        values = [token.advantage or 0.0 for token in record.tokens]
        wrong = {step.index for step in record.steps if step.called_wrong}
        for place, token in enumerate(record.tokens):
            if token.step in wrong:
                axis.axvspan(place - 0.5, place + 0.5, color=COLOURS[1], alpha=0.13, linewidth=0)
        axis.bar(range(len(values)), values, color=[COLOURS[0] if value > 0 else COLOURS[1] for value in values])
        axis.set_xticks(range(len(values)), [_label(token) for token in record.tokens], fontsize=7)
        axis.set_title(f"{record.title}: {record.outcome} answer", fontsize=9, loc="left")
        axis.set_ylabel("advantage")
        axis.axhline(0, color="black", linewidth=0.6)
        axis.margins(x=0.01)
    grid[-1].set_xlabel("token (shaded: in a step called wrong)")
    return figure


def plot_histories(histories: Sequence[PromptHistory]) -> "Figure":
    """The share of wrong steps of a few prompts, at every step that saw them.

    Args:
        histories: of `Rollouts.verdict_changes`, at most four.
    """
    lines = {
        one.problem: {visit.step: visit.wrong_steps for visit in one.visits} for one in histories[:_MOST_HISTORIES]
    }
    return _panels({"steps called wrong (share)": lines}, xlabel="training step that saw the prompt")


def right_share(records: Sequence[Record]) -> float | None:
    """Right answers among the known outcomes."""
    known = [record.outcome == "right" for record in records if record.outcome != "unknown"]
    return fmean(known) if known else None


def wrong_step_share(records: Sequence[Record]) -> float | None:
    """Step error, mean over the steps of judged rollouts."""
    errors = [step.error for record in records for step in record.steps if step.error is not None]
    return fmean(errors) if errors else None


def lucky_share(records: Sequence[Record], truth: Truth | None = None) -> float | None:
    """Right answers with a wrong step, among right answers; by the verdict of judged rollouts, or by the truth."""
    right = [record for record in records if record.outcome == "right"]
    if truth is not None:
        wrong = [bool(truth(record)) for record in right]
    else:
        wrong = [any(step.called_wrong for step in record.steps) for record in right if record.judged]
    return fmean(wrong) if wrong else None


def _disagreement(records: Sequence[Record]) -> float | None:
    found = [record.disagreement for record in records if record.disagreement is not None]
    return fmean(found) if found else None


def _by_step(rollouts: Rollouts, share: _Share) -> dict[str, Curve]:
    steps: dict[str, dict[int, list[Record]]] = {}
    for record in rollouts:
        steps.setdefault(record.row["run"], {}).setdefault(record.row["step"], []).append(record)
    return {
        run: {step: value for step, records in found.items() if (value := share(records)) is not None}
        for run, found in steps.items()
    }


def _panels(panels: Mapping[str, Mapping[str, Curve]], xlabel: str = "training step") -> "Figure":
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = _figure(4.6 * columns if columns > 1 else 6.4, 3.1 * rows)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    for axis, (label, lines) in zip(figure.subplots(rows, columns, squeeze=False).flat, panels.items(), strict=False):
        for name, line in lines.items():
            index = names.index(name)
            axis.plot(sorted(line), [line[x] for x in sorted(line)], label=name, **line_style(index))
        tidy(axis, xlabel, label)
        axis.set_ylim(bottom=0)
    if len(names) > 1:
        add_legend(figure, names, min(4, len(names)))
    return figure


def _figure(width: float, height: float) -> "Figure":
    """A figure that belongs to no display; a notebook shows it as the value of a cell."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _label(token: Token) -> str:
    """As much of a token as fits under its bar."""
    words = "end" if token.special else one_line_breaks(token.text)
    return (words if len(words) <= _FITS else words[: _FITS - 1] + "…").replace("$", r"\$")
