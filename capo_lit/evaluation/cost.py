"""What a judge costs, in one step and in the whole run: critiques, tokens, seconds, and attempts that failed."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from capo_lit.batch.facts import CritiquedRollout
from capo_lit.engines.base import Engine
from capo_lit.evaluation.names import FAILURES, METRICS
from capo_lit.evaluation.reduction import Mean, Parts

Counts = Mapping[str, float]

ENDS = ("yes", "no", "parse", "length", "timeout", "error")
"""How a critique of an outcome ends, unless it is called off."""
RUN = ("judge_tokens", "trained_tokens")
"""What a ledger keeps of a run."""


@runtime_checkable
class AsksEngine(Protocol):
    """A judge, of steps or of outcomes, whose critiques an engine generates."""

    engine: Engine


def critique_cost(critiqued: Sequence[CritiquedRollout]) -> dict[str, float]:
    """What critiques took; those from a critique store took nothing.

    Args:
        critiqued: judged rollouts.

    Returns:
        Counts by name.
    """
    critiques = [critique for item in critiqued for critique in item.critiques]
    asked = [critique for critique in critiques if not critique.cached]
    read = sum(critique.prompt_tokens for critique in asked)
    wrote = sum(critique.completion_tokens for critique in asked)
    trained = sum(len(item.rollout.completion.ids) for item in critiqued if item.rollout.outcome is not None)
    return {
        "critiques": float(len(critiques)),
        "cached": float(len(critiques) - len(asked)),
        "asked": float(len(asked)),
        "aborted": float(sum(critique.aborted for critique in asked)),
        "judge_prompt_tokens": float(read),
        "judge_completion_tokens": float(wrote),
        "judge_tokens": float(read + wrote),
        "trained_tokens": float(trained),
    }


def outcome_cost(counts: Counts) -> dict[str, float]:
    """What votes on outcomes took.

    Args:
        counts: as GenORM.counters.
    """
    read, wrote = counts.get("prompt_tokens", 0.0), counts.get("completion_tokens", 0.0)
    aborted = counts.get("spared", 0.0)
    return {
        "asked": sum(counts.get(name, 0.0) for name in ENDS) + aborted,
        "aborted": aborted,
        "judge_prompt_tokens": read,
        "judge_completion_tokens": wrote,
        "judge_tokens": read + wrote,
    }


def cost_metrics(cost: Counts, family: str) -> Parts:
    """What a judge took in one step, under the names of evaluation/names.py.

    Args:
        cost: see `critique_cost`, `outcome_cost` and `engine_counts`; what is not in it counts 0.
        family: of the metrics: critique or outcome.
    """
    causes = FAILURES if "failed_attempts" in cost else ()  # a rule has no engine whose failures have causes
    sums = (
        "asked", "aborted", "aborted_completion_tokens", "judge_prompt_tokens", "judge_completion_tokens",
        "failed_attempts", *(f"failed_{cause}" for cause in causes),
    )  # fmt: skip
    values: Parts = {f"{family}/{name}": cost.get(name, 0.0) for name in sums if f"{family}/{name}" in METRICS}
    if family == "critique":
        values["critique/prefix_cached_frac"] = _ratio(cost, "prefix_cached_tokens", "prefix_tokens")
        values["critique/cached_frac"] = _ratio(cost, "cached", "critiques")
    return values


def run_metrics(total: Counts, family: str) -> Parts:
    """What a judge took in the run so far; see `Ledger`."""
    values: Parts = {f"{family}/judge_tokens_run": total.get("judge_tokens", 0.0)}
    if family == "critique":
        values["critique/judge_tokens_per_trained_token_run"] = _ratio(total, "judge_tokens", "trained_tokens")
    return values


def _ratio(counts: Counts, part: str, whole: str) -> Mean:
    return Mean(counts.get(part, 0.0), counts.get(whole, 0.0))


def engine_counts(engine: Engine) -> dict[str, float]:
    """What an engine has counted since it was built: tokens, and failed attempts by cause."""
    failed = Counter[str]()
    for cause, number in dict(engine.failed_attempts).items():  # a copy: a server's engine counts in its own thread
        failed[f"failed_{_cause(cause)}"] += number
    return {
        "prefix_tokens": engine.prompt_tokens,
        "prefix_cached_tokens": engine.cached_tokens,
        "aborted_completion_tokens": engine.aborted_tokens,
        "failed_attempts": failed.total(),
        **failed,
    }


def _cause(cause: str) -> str:
    if cause == "status 429":
        return "http_429"
    if cause.startswith("status 5"):
        return "http_5xx"
    if cause == "empty":
        return "unreadable"
    return cause if cause in FAILURES else "other"


class Growth:
    """How far counters have grown since they were last looked at."""

    def __init__(self) -> None:
        self._seen: Counts = {}

    def of(self, counts: Counts) -> dict[str, float]:
        """The growth since the last call, by name; all of it at the first."""
        grown = {name: value - self._seen.get(name, 0) for name, value in counts.items()}
        self._seen = dict(counts)
        return grown


class Ledger:
    """The costs of a run so far, as far as this process knows them: the sum over all processes is the run's.

    Attributes:
        total: the counts of RUN by name, see `critique_cost` and `outcome_cost`; plain numbers, for the checkpoint.
    """

    def __init__(self) -> None:
        self.total: dict[str, float] = dict.fromkeys(RUN, 0.0)
        self._engines: dict[Engine, Growth] = {}

    def add(self, counts: Counts) -> None:
        """Add counts by name; those that are not kept are passed over."""
        for name in RUN:
            self.total[name] += counts.get(name, 0.0)

    def growth(self, judge: object) -> dict[str, float]:
        """What a judge's engine has counted since the last call; empty if it has no engine."""
        if not isinstance(judge, AsksEngine):
            return {}
        return self._engines.setdefault(judge.engine, Growth()).of(engine_counts(judge.engine))

    def add_critiques(self, judge: object, critiqued: Sequence[CritiquedRollout], trained: bool) -> dict[str, float]:
        """Add what a judge of steps has just done, and return what its engine has counted meanwhile.

        Args:
            judge: that was asked.
            critiqued: what it gave back.
            trained: whether the policy is trained on these rollouts.
        """
        cost = critique_cost(critiqued)
        self.add(cost if trained else {**cost, "trained_tokens": 0.0})
        return self.growth(judge)
