"""The figures of a report, each as PNG and SVG: mean lines over seeds, with bands of one standard deviation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from capo_lit.records.report.compute import UNITS, Unit, accuracy_by_cost
from capo_lit.records.report.stats import spread
from capo_lit.records.report.systems import ACCURACY, System, band

# The palette of Okabe and Ito, made to be told apart under every common colour blindness; yellow is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_FEW = 30  # points of a line that get a marker each, and no running mean


@dataclass(frozen=True)
class Point:
    """One point of a line: where, mean and half the width of the band."""

    x: float
    mean: float
    half: float


Line = list[Point]


@dataclass(frozen=True)
class Panel:
    """One pair of axes."""

    xlabel: str
    ylabel: str
    line: Callable[[System], Line]


def _over_steps(metric: str, ylabel: str) -> Panel:
    def line(system: System) -> Line:
        return _smooth([Point(step, value.mean, value.sd or 0.0) for step, value in band(system, metric)])

    return Panel("optimizer steps", ylabel, line)


def _smooth(points: Line) -> Line:
    """Centred running means over a twentieth of the points; a line of few points, such as evaluations, stays."""
    reach = len(points) // 40 if len(points) > _FEW else 0
    windows = [points[max(0, i - reach) : i + reach + 1] for i in range(len(points))]
    return [
        Point(point.x, fmean(p.mean for p in window), fmean(p.half for p in window))
        for point, window in zip(points, windows, strict=True)
    ]


def _over_cost(unit: Unit) -> Panel:
    def line(system: System) -> Line:
        runs = [found for run in system.runs if (found := accuracy_by_cost(run, unit))]
        # Runs of one system are evaluated at the same steps, and spend much the same until each.
        evaluations = list(zip(*runs, strict=False))
        points = []
        for evaluation in evaluations:
            value = spread([accuracy for _, accuracy in evaluation])
            points.append(Point(spread([cost for cost, _ in evaluation]).mean, value.mean, value.sd or 0.0))
        return points

    return Panel(unit.name, "avg@k (share right)", line)


@dataclass(frozen=True)
class _Sheet:
    caption: str
    panels: tuple[Panel, ...]


_BANDS = "Mean over runs, band: ± one standard deviation."
_SHEETS = {
    "accuracy": _Sheet(
        f"Accuracy on held-out problems over optimizer steps. {_BANDS}",
        (
            _over_steps(ACCURACY, "avg@k (share right)"),
            _over_steps("val/greedy_accuracy", "greedy accuracy (share right)"),
        ),
    ),
    "dynamics": _Sheet(
        "Training dynamics. Step error rate: wrong steps of answers to held-out problems, by the evaluation's judge. "
        f"Wrong-step share: steps of training rollouts that the vote called wrong. {_BANDS} "
        "Training steps: running means over a twentieth of the run.",
        (
            _over_steps("reward/token_mean", "reward per token"),
            _over_steps("rollout/length_mean", "response length (tokens)"),
            _over_steps("val/step_error_frac", "step error rate (share of steps)"),
            _over_steps("critique/wrong_step_frac", "wrong-step share (of training steps)"),
        ),
    ),
    "compute": _Sheet(
        f"Accuracy on held-out problems against compute, counted as in the tables above. {_BANDS}",
        tuple(_over_cost(unit) for unit in UNITS),
    ),
}


def draw_all(systems: Sequence[System], folder: Path, started: Callable[[str], None]) -> dict[str, str]:
    """Draw every figure for which there is something to draw.

    Args:
        systems: one colour, line style and marker each, the same in all figures.
        folder: that the pictures go to.
        started: told the name of each figure before it is drawn.

    Returns:
        Stem of the files -> caption.
    """
    drawn = {}
    for stem, sheet in _SHEETS.items():
        started(stem)
        lines = [(panel, {system.name: panel.line(system) for system in systems}) for panel in sheet.panels]
        lines = [(panel, found) for panel, found in lines if any(found.values())]
        if lines:
            _draw(lines, [system.name for system in systems], folder / stem)
            drawn[stem] = sheet.caption
    return drawn


def _draw(panels: Sequence[tuple[Panel, Mapping[str, Line]]], names: Sequence[str], stem: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = 2 if len(panels) in (2, 4) else len(panels)
    rows = -(-len(panels) // columns)
    # Agg and SVG by the figure itself: no display is looked for. Equal runs give equal SVG files.
    with matplotlib.rc_context({"font.size": 10, "svg.hashsalt": "capo", "svg.fonttype": "none"}):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)  # inches around each pair of axes
        entries = min(len(names), 2 * columns)  # of one row of the legend
        height = 3.3 * rows + 0.25 * -(-len(names) // entries)
        figure = Figure(figsize=(4.4 * columns, height), layout=layout)
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axis, (panel, lines) in zip(grid, panels, strict=False):
            for index, name in enumerate(names):
                _line(axis, lines[name], index)
            tidy(axis, panel.xlabel, panel.ylabel)
        add_legend(figure, names, entries)
        figure.savefig(stem.with_suffix(".png"), dpi=150)
        figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def tidy(axis: Any, xlabel: str, ylabel: str) -> None:
    """Name a pair of axes, with a light grid and no frame."""
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Any, names: Sequence[str], columns: int) -> None:
    """One legend of all lines, below the axes."""
    handles = [figure.axes[0].plot([], [], label=name, **line_style(i))[0] for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def line_style(index: int) -> dict[str, Any]:
    """Of a line: colour, dashes and marker, so that it can be told apart without colours."""
    colours = len(COLOURS)
    return {
        "color": COLOURS[index % colours],
        "linestyle": _LINES[index // colours % len(_LINES)],
        "marker": _MARKERS[(index + index // colours) % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def _line(axis: Any, points: Line, index: int) -> None:
    style = line_style(index)
    x, mean = [point.x for point in points], [point.mean for point in points]
    axis.plot(x, mean, **style, markevery=1 if len(points) <= _FEW else max(1, len(points) // 10))
    if any(point.half for point in points):
        low, high = [p.mean - p.half for p in points], [p.mean + p.half for p in points]
        axis.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
