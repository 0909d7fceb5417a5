"""What runs cost, and what they made of it: tokens, seconds, the judge's share, accuracy per unit of compute."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from capo_lit.records.curves import Curve
from capo_lit.records.report.stats import Spread, spread
from capo_lit.records.report.systems import ACCURACY, System
from capo_lit.records.runs import Run, processes


@dataclass(frozen=True)
class Unit:
    """A unit of compute: metrics that are added up over training steps.

    Attributes:
        name: with its scale.
        meaning: what is counted.
        scale: of the table's numbers.
        per_step: metrics that every run has.
        judged: metrics that a run has if it asks a judge.
        whole: whether a value is of the whole step, and is not added up over processes.
    """

    name: str
    meaning: str
    scale: float
    per_step: tuple[str, ...]
    judged: tuple[str, ...] = ()
    whole: bool = False


READ = ("critique/judge_prompt_tokens", "outcome/judge_prompt_tokens")
WRITTEN = ("critique/judge_completion_tokens", "outcome/judge_completion_tokens")
UNITS = (
    Unit(
        "million tokens of policy and judge",
        "response tokens the policy sampled for training, plus tokens the judge read and wrote; each counts as one, "
        "whatever the model's size",
        1e6, ("rollout/tokens",), READ + WRITTEN,
    ),
    Unit(
        "million generated tokens",
        "response tokens the policy sampled for training, plus tokens the judge wrote: decoding is what takes time",
        1e6, ("rollout/tokens",), WRITTEN,
    ),
    Unit(
        "minutes of training",
        "wall time of all training steps, on the machine of the run; start-up and evaluations are left out",
        60.0, ("time/step_s",), whole=True,
    ),
)  # fmt: skip


def total(run: Run, metrics: Sequence[str], whole: bool = False) -> Curve | None:
    """Metrics of training steps, added up from the first step on, as {step: sum so far}.

    Args:
        run: that logged them; one that it lacks counts as 0.
        metrics: values of one step each.
        whole: whether a value is of the whole step, and is not added up over processes.

    Returns:
        The sums over all processes; None if steps are missing from the log.
    """
    steps = sorted({step for metric in metrics for step in run.curves.get(metric, ())})
    gaps = {after - before for before, after in pairwise([0, *steps])}
    if len(gaps) > 1 or run.config.get("trainer.log_every_n_steps", 1) != 1:
        return None
    factor = 1 if whole else processes(run.config, run.curves)
    per_step = [factor * sum(run.curves.get(metric, {}).get(step, 0.0) for metric in metrics) for step in steps]
    return {0: 0.0, **dict(zip(steps, accumulate(per_step), strict=True))}


def judge_families(run: Run) -> tuple[str, ...]:
    """Families of metrics that count the tokens of the judges that a run asks: of steps, of outcomes."""
    asked = {
        "critique": bool(run.config.get("critique.judge.class_path")),
        "outcome": any(name.startswith("rollout.outcomes.init_args.engine") for name in run.config),
    }
    return tuple(family for family, there in asked.items() if there)


def cost(run: Run, unit: Unit) -> Curve | None:
    """Compute spent by a run, as {step: units so far}; None if the run does not tell."""
    families = judge_families(run)
    needed = [*unit.per_step, *(name for name in unit.judged if name.split("/")[0] in families)]
    if any(not run.curves.get(name) for name in needed):
        return None
    sums = total(run, needed, unit.whole)
    return sums and {step: value / unit.scale for step, value in sums.items()}


def accuracy_by_cost(run: Run, unit: Unit) -> list[tuple[float, float]]:
    """(units spent, accuracy) at every evaluation; empty if either is not known."""
    spent = cost(run, unit)
    if spent is None:
        return []
    steps = sorted(spent)
    return [
        (spent[steps[bisect_right(steps, step) - 1]], value)
        for step, value in sorted(run.curves.get(ACCURACY, {}).items())
    ]


def accuracy_at(points: Sequence[tuple[float, float]], budget: float) -> float:
    """Accuracy when a budget is spent, linear between evaluations.

    Args:
        points: (units spent, accuracy) in order, the last not below the budget.
        budget: units.
    """
    index = next(index for index, (spent, _) in enumerate(points) if spent >= budget)
    after, right = points[index]
    if index == 0 or after == budget:
        return right
    before, left = points[index - 1]
    return left + (right - left) * (budget - before) / (after - before)


@dataclass(frozen=True)
class Bought:
    """What a system made of its compute: units spent, gain in accuracy per unit, accuracy at the common budget."""

    system: System
    spent: Spread
    gain: Spread | None
    at_budget: Spread


def per_unit(systems: Sequence[System], unit: Unit) -> tuple[float, list[Bought]]:
    """The largest budget that every run reached, and what each system made of it; systems that do not tell are out."""
    points = {
        system.name: [found for run in system.runs if (found := accuracy_by_cost(run, unit))] for system in systems
    }
    known = [system for system in systems if points[system.name]]
    budget = min((run[-1][0] for system in known for run in points[system.name]), default=0.0)
    rows = []
    for system in known:
        runs = points[system.name]
        gains = [(run[-1][1] - run[0][1]) / run[-1][0] for run in runs if run[0][0] == 0 < run[-1][0]]
        rows.append(
            Bought(
                system,
                spread([run[-1][0] for run in runs]),
                spread(gains) if gains else None,
                spread([accuracy_at(run, budget) for run in runs]),
            )
        )
    return budget, rows


@dataclass(frozen=True)
class Ledger:
    """What the judge of one run cost.

    Attributes:
        read: tokens of prompts, of training steps.
        written: tokens of replies.
        per_trained_token: tokens read and written, per response token that the policy was trained on.
        waited: seconds that training stood still for the judge.
        share: of `waited` in the time of all training steps.
    """

    read: float
    written: float
    per_trained_token: float
    waited: float
    share: float


def ledger(run: Run) -> Ledger | None:
    """The judge's ledger of a run; None if it asks no judge, or does not tell."""
    families = judge_families(run)
    read, written = (_sum(run, [name for name in names if name.split("/")[0] in families]) for names in (READ, WRITTEN))
    sampled, seconds = _sum(run, ["rollout/tokens"]), _sum(run, ["time/step_s"], whole=True)
    if not families or read is None or written is None or not sampled or not seconds:
        return None
    waited = _sum(run, ["time/critique_s"], whole=True) or 0.0
    return Ledger(read, written, _per_trained_token(run, read + written, sampled), waited, waited / seconds)


def _sum(run: Run, metrics: Sequence[str], whole: bool = False) -> float | None:
    """The run's total; None if it does not tell, or it is 0 steps long."""
    sums = total(run, metrics, whole) if all(run.curves.get(name) for name in metrics) else None
    return sums[max(sums)] if sums else None


def _per_trained_token(run: Run, tokens: float, sampled: float) -> float:
    """As the run's own ledger has it; where that has none, over the tokens of rollouts with a known outcome."""
    logged = run.curves.get("critique/judge_tokens_per_trained_token_run")
    if logged and judge_families(run) == ("critique",):
        return logged[max(logged)]
    unknown = run.curves.get("reward/outcome_unknown_frac", {})
    sizes = run.curves["rollout/tokens"]
    known = sum(size * (1 - unknown.get(step, 0.0)) for step, size in sizes.items()) / sum(sizes.values())
    return tokens / (sampled * known) if sampled * known else 0.0
