"""From runs to the numbers of a report: systems, curves over seeds, final means, ablations. No file is read here."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from capo_lit.records.curves import Curve
from capo_lit.records.report.stats import Sample, Spread, spread
from capo_lit.records.runs import Run, same_but

ACCURACY = "val/avg_at_k"
_JUDGE = "critique.judge."
_OUTCOMES = "rollout.outcomes."
_WHOLE, _PROCESS = "model.init_args.credit.w_whole", "model.init_args.credit.w_process"


@dataclass(frozen=True)
class System:
    """The whole runs of one system, at least one; `config` is its first run's."""

    name: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, Any]:
        """Settings by dotted name."""
        return self.runs[0].config

    @property
    def is_baseline(self) -> bool:
        """Whether it is trained by outcomes alone: wrong steps cost nothing."""
        return self.config.get(_PROCESS) == 0


def systems_of(runs: Iterable[Run]) -> list[System]:
    """Runs that are whole, by system, in the order in which systems first appear."""
    members: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if not run.trouble:
            members[run.system].append(run)
    return [System(name, tuple(group)) for name, group in members.items()]


def band(system: System, metric: str) -> list[tuple[int, Spread]]:
    """A metric over optimizer steps, at the steps that all runs which have it share."""
    curves = [run.curves[metric] for run in system.runs if run.curves.get(metric)]
    steps = set.intersection(*(set(curve) for curve in curves)) if curves else set()
    return [(step, spread([curve[step] for curve in curves])) for step in sorted(steps)]


def finals(system: System, metric: str) -> list[Sample]:
    """(seed, value) at the end of every run that has a metric.

    The last value of an evaluation; of training steps, which are few rollouts each, the mean of the last tenth.
    """
    return [(run.seed, _end(run.curves[metric], metric)) for run in system.runs if run.curves.get(metric)]


def _end(curve: Curve, metric: str) -> float:
    count = 1 if metric.startswith("val/") else max(1, len(curve) // 10)
    return fmean(curve[step] for step in sorted(curve)[-count:])


def starts(system: System, metric: str) -> Spread | None:
    """Mean and spread before the first step; None if no run was evaluated there."""
    values = [run.curves[metric][0] for run in system.runs if 0 in run.curves.get(metric, {})]
    return spread(values) if values else None


def final(system: System, metric: str) -> Spread | None:
    """Mean and spread of `finals`; None if no run has the metric."""
    values = [value for _, value in finals(system, metric)]
    return spread(values) if values else None


def best_baseline(systems: Sequence[System]) -> System | None:
    """The most accurate of the systems that are trained by outcomes alone."""
    means = {
        system.name: result.mean
        for system in systems
        if system.is_baseline and (result := final(system, ACCURACY)) is not None
    }
    return max((s for s in systems if s.name in means), key=lambda system: means[system.name], default=None)


@dataclass(frozen=True)
class Ablation:
    """Settings that a table compares, by dotted name, with the headings of their columns."""

    title: str
    headings: Mapping[str, str]


_VOTE, _K, _TEMPERATURE = (f"{_JUDGE}init_args.{name}" for name in ("vote", "k", "sampling.temperature"))
VOTES = Ablation("Votes", {_VOTE: "vote", _K: "critiques k"})
CRITIQUES = Ablation(
    "Number of critiques", {_K: "critiques of steps k", f"{_OUTCOMES}init_args.k": "critiques of outcomes N"}
)
WEIGHTS = Ablation("Weights", {_WHOLE: "W_whole", _PROCESS: "W_process"})
ABLATIONS = (VOTES, CRITIQUES, WEIGHTS)


def compared(systems: Sequence[System], ablation: Ablation) -> list[list[System]]:
    """Groups of two systems or more that differ in an ablation's settings and in nothing else, in order of these.

    The greedy vote has k 1 and temperature 0, so votes are compared at one k, the most frequent, and greedy.
    """
    left_out = (*ablation.headings, _TEMPERATURE) if ablation is VOTES else tuple(ablation.headings)
    groups: dict[frozenset[tuple[str, str]], list[System]] = defaultdict(list)
    for system in systems:
        if any(system.config.get(name) is not None for name in ablation.headings):
            groups[same_but(system.config, left_out)].append(system)
    found = []
    for members in groups.values():
        group = _at_one_k(members) if ablation is VOTES else members
        if len({_values(system, ablation) for system in group}) > 1:
            found.append(sorted(group, key=lambda system: [(v is None, v or 0) for v in _values(system, ablation)]))
    return found


def _values(system: System, ablation: Ablation) -> tuple[Any, ...]:
    return tuple(system.config.get(name) for name in ablation.headings)


def _at_one_k(group: Sequence[System]) -> list[System]:
    counts = Counter(system.config.get(_K) for system in group if system.config.get(_VOTE) != "greedy")
    usual = max(counts, key=lambda k: (counts[k], k or 0), default=1)
    return [s for s in group if s.config.get(_VOTE) == "greedy" or s.config.get(_K) == usual]
