"""The markdown of a report: tables with means, spreads and what is missing."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from capo_lit.records.report import compute as compute
from capo_lit.records.report.stats import Difference, Spread, difference, spread
from capo_lit.records.report.systems import ABLATIONS, ACCURACY, System, best_baseline, compared, final, finals, starts
from capo_lit.records.runs import Run

# What a table shows of a system at the end of training: metric -> heading, decimals.
_COLUMNS = {
    ACCURACY: ("avg@k", 3),
    "val/greedy_accuracy": ("greedy accuracy", 3),
    "val/step_error_frac": ("step error rate", 3),
    "critique/wrong_step_frac": ("wrong-step share", 3),
    "reward/token_mean": ("reward per token", 3),
    "rollout/length_mean": ("response length", 1),
}
MISSING = "n/a"
NEEDED = ("val/avg_at_k", "val/greedy_accuracy", "val/step_error_frac", "reward/token_mean", "rollout/length_mean")
_SHORT = ("val/avg_at_k", "val/greedy_accuracy", "val/step_error_frac")


def number(value: Spread | None, digits: int = 3) -> str:
    """Mean ± standard deviation; the mean alone for one run, n/a for none."""
    if value is None:
        return MISSING
    sd = "" if value.sd is None else f" ± {value.sd:,.{digits}f}"
    return f"{value.mean:,.{digits}f}{sd}"


def significant(value: Spread | None) -> str:
    """As `number`, with three significant digits of the mean."""
    return number(value, 0 if value is None else _decimals(value.mean))


def _decimals(value: float) -> int:
    """Decimals that show three significant digits, at least 0."""
    size = abs(float(f"{value:.3g}"))
    return max(0, 2 - math.floor(math.log10(size))) if size else 0


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    lines = [headings, ["---", *("---:" for _ in headings[1:])], *rows]
    cells = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells) + "\n"


def page(
    runs: Sequence[Run], systems: Sequence[System], baseline: System | None, figures: Mapping[str, str], manifest: str
) -> str:
    """The whole page.

    Args:
        runs: all that were found, in means or not.
        systems: of the whole ones.
        baseline: that the others are compared with; None if there is none.
        figures: stem of a picture's file -> its caption.
        manifest: the last section.
    """
    pictures = {stem: f"![{text}]({stem}.png)\n\n{text} [SVG]({stem}.svg)\n" for stem, text in figures.items()}
    parts = [
        "# Report\n",
        _left_out(runs, systems),
        "## At the end of training\n",
        "Mean ± standard deviation over runs, which differ in their seed. Accuracy and step error rate are those of "
        f"the last evaluation on held-out problems{_samples(systems)}; the rest are means over the last tenth of the "
        "training steps.\n",
        _ends(systems, tuple(_COLUMNS), {}, start=True),
        _differences(systems, baseline),
        "## Over training\n",
        pictures.get("accuracy", ""),
        pictures.get("dynamics", ""),
        *_ablations(systems),
        _ledger(systems),
        _per_compute(systems),
        pictures.get("compute", ""),
        manifest,
    ]
    return "\n".join(part for part in parts if part)


def _samples(systems: Sequence[System]) -> str:
    counts = {system.config.get("rollout.eval_samples") for system in systems} - {None}
    return f" (k = {counts.pop()} samples a problem)" if len(counts) == 1 else ""


def _left_out(runs: Sequence[Run], systems: Sequence[System]) -> str:
    lines = [f"- `{run.path}` ({run.system}): {run.trouble}; in no mean" for run in runs if run.trouble]
    for system in systems:
        for run in system.runs:
            lacking = [name for name in NEEDED if not run.curves.get(name)]
            if any(compute.cost(run, unit) is None for unit in compute.UNITS):
                lacking.append("full count of its tokens and seconds")
            if lacking:
                lines.append(f"- `{run.path}` ({run.system}): no {', no '.join(lacking)}")
        seeds = [run.seed for run in system.runs]
        for seed in sorted({seed for seed in seeds if seed is not None and seeds.count(seed) > 1}):
            lines.append(f"- {system.name}: {seeds.count(seed)} runs of seed {seed}; each counts")
    whole = sum(len(system.runs) for system in systems)
    head = f"{len(systems)} systems, {whole} whole runs of {len(runs)}.\n"
    return head + ("\n**Left out or lacking something:**\n\n" + "\n".join(lines) + "\n" if lines else "")


def _ends(systems: Sequence[System], metrics: Sequence[str], columns: Mapping[str, Sequence[Any]], start: bool) -> str:
    headings = ["system", *columns, "runs", *(_COLUMNS[metric][0] for metric in metrics)]
    if start:
        headings.insert(len(columns) + 2, "avg@k at step 0")
    rows = []
    for index, system in enumerate(systems):
        row = [system.name, *(str(values[index]) for values in columns.values()), str(len(system.runs))]
        if start:
            row.append(number(starts(system, ACCURACY)))
        rows.append([*row, *(_cell(system, metric) for metric in metrics)])
    return table(headings, rows)


def _cell(system: System, metric: str) -> str:
    """Mean and spread, and the number of values if runs lack some."""
    value = final(system, metric)
    short = "" if value is None or value.n == len(system.runs) else f" (n = {value.n})"
    return number(value, _COLUMNS[metric][1]) + short


def _differences(systems: Sequence[System], baseline: System | None) -> str:
    if baseline is None or len(systems) < 2:
        return ""
    rows = []
    for system in systems:
        if system is not baseline:
            for metric in _SHORT:
                ours, theirs = finals(system, metric), finals(baseline, metric)
                if ours and theirs:
                    gap = difference(ours, theirs)
                    rows.append([f"{system.name}, {_COLUMNS[metric][0]}", f"{gap.mean:+.3f}", interval(gap), gap.how])
    best = "the best baseline, " if baseline is best_baseline(systems) else ""
    return (
        f"### Difference from {best}{baseline.name}\n\n"
        + table(["system", "difference", "95 % interval", "kind"], rows)
        + "\nA step error rate that falls is better. Intervals are Student's, not corrected for the number of rows.\n"
    )


def interval(gap: Difference) -> str:
    """[low, high], or n/a."""
    return MISSING if gap.low is None else f"[{gap.low:+.3f}, {gap.high:+.3f}]"


def _ablations(systems: Sequence[System]) -> list[str]:
    parts = []
    for ablation in ABLATIONS:
        for group in compared(systems, ablation):
            columns = {h: [system.config.get(name) for system in group] for name, h in ablation.headings.items()}
            shown = {h: values for h, values in columns.items() if any(value is not None for value in values)}
            parts += [f"## {ablation.title}\n", _ends(group, _SHORT, shown, start=False)]
    return parts


def _ledger(systems: Sequence[System]) -> str:
    rows = []
    for system in systems:
        books = [found for run in system.runs if (found := compute.ledger(run)) is not None]
        if books:
            rows.append([
                system.name,
                number(spread([book.per_trained_token for book in books]), 2),
                number(spread([book.read for book in books]), 0),
                number(spread([book.written for book in books]), 0),
                number(spread([book.read + book.written for book in books]), 0),
                number(spread([book.waited for book in books]), 1),
                f"{spread([book.share for book in books]).mean:.1%}",
            ])  # fmt: skip
    headings = (
        "system", "judge tokens per trained token", "tokens read", "tokens written", "tokens in the run",
        "seconds waited", "of the training time",
    )  # fmt: skip
    text = (
        "What the judges of training rollouts read and wrote in a run, and how long training stood still for the judge "
        "of steps. A rule in the judge's place has no tokens.\n\n"
    )
    return "## The judge's ledger\n\n" + text + table(headings, rows) if rows else ""


def _per_compute(systems: Sequence[System]) -> str:
    parts = []
    for unit in compute.UNITS:
        budget, rows = compute.per_unit(systems, unit)
        if rows:
            cells = [
                [
                    row.system.name,
                    significant(row.spent),
                    _cell(row.system, ACCURACY),
                    number(row.at_budget),
                    significant(row.gain),
                ]
                for row in rows
            ]
            headings = (
                "system",
                "spent",
                "avg@k at the end",
                f"avg@k at {budget:,.{_decimals(budget)}f}",
                "gain of avg@k per unit",
            )
            parts.append(f"Unit: {unit.name}: {unit.meaning}.\n\n" + table(headings, cells))
    if not parts:
        return ""
    text = (
        "Every system at the largest budget that all runs reached (accuracy is linear between evaluations), and what "
        "the whole run gained per unit since step 0.\n\n"
    )
    return "## Accuracy per unit of compute\n\n" + text + "\n".join(parts)
