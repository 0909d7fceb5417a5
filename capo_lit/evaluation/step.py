"""Numbers about one step's rollouts and critiques, under the names of evaluation/names.py."""

from collections.abc import Iterable, Sequence

from capo_lit.batch.facts import CritiquedRollout, Rollout
from capo_lit.evaluation.cost import ENDS, Counts, cost_metrics, critique_cost, failure_metrics, outcome_cost
from capo_lit.verifier.answer import final_answer


def rollout_metrics(rollouts: Sequence[Rollout], seconds: float) -> dict[str, float]:
    """The rollout/ family and the outcome's mean. A policy that learns to dodge its judge shows in its steps."""
    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    known = [rollout.outcome for rollout in rollouts if rollout.outcome is not None]
    answers = [answer for r in rollouts if (answer := final_answer(r.completion.text)) is not None]
    steps = sum(len(rollout.spans) for rollout in rollouts)
    values = {
        "rollout/steps_mean": steps / len(rollouts),
        "rollout/tokens": float(sum(lengths)),
        "rollout/length_mean": sum(lengths) / len(lengths),
        "rollout/length_max": float(max(lengths)),
        "rollout/truncated_frac": _share(r.completion.finish_reason == "length" for r in rollouts),
        "rollout/answer_chars_mean": sum(map(len, answers)) / len(answers) if answers else 0.0,
        "rollout/tokens_per_s": sum(lengths) / seconds if seconds > 0 else 0.0,
        "reward/outcome_unknown_frac": _share(rollout.outcome is None for rollout in rollouts),
        "time/rollout_s": seconds,
    }
    if steps:
        values["rollout/tokens_per_step_mean"] = sum(lengths) / steps
    if known:
        values["reward/outcome_mean"] = sum(known) / len(known)
    return values


def critique_metrics(
    critiqued: Sequence[CritiquedRollout], seconds: float, engine: Counts | None = None
) -> dict[str, float]:
    """The critique/ family.

    Args:
        critiqued: the rollouts of one step.
        seconds: that were waited for the judge.
        engine: what the judge's engine counted meanwhile; empty or None for a judge without one.
    """
    # Aborted ones could not change the vote any more: they are no abstentions.
    critiques = [critique for item in critiqued for critique in item.critiques if not critique.aborted]
    errors = [error for item in critiqued for error in item.verdict.step_error]
    values = {
        "critique/no_verdict_frac": _share(item.verdict.valid == 0 for item in critiqued if item.spans),
        "critique/vote_agreement": sum(item.verdict.agreement for item in critiqued) / len(critiqued),
        "critique/parse_fail_frac": _share(critique.cause in ("parse", "length") for critique in critiques),
        "critique/abstain_frac": _share(critique.wrong is None for critique in critiques),
        "critique/timeout_frac": _share(critique.cause == "timeout" for critique in critiques),
        "critique/error_frac": _share(critique.cause.startswith("error") for critique in critiques),
        "time/critique_s": seconds,
    }
    if errors:
        values["critique/wrong_step_frac"] = sum(errors) / len(errors)
    return values | _costs(critique_cost(critiqued), engine, "critique")


def outcome_metrics(counts: Counts, engine: Counts) -> dict[str, float]:
    """The outcome/ family.

    Args:
        counts: of a judge of outcomes in one step, as GenORM.counters.
        engine: what its engine counted meanwhile.
    """
    came = sum(counts.get(name, 0.0) for name in ENDS)
    shares = {
        "abstain_frac": ("parse", "length", "timeout", "error"),
        "parse_fail_frac": ("parse", "length"),
        "timeout_frac": ("timeout",),
        "error_frac": ("error",),
    }
    values = {
        f"outcome/{name}": sum(counts.get(end, 0.0) for end in ends) / came if came else 0.0
        for name, ends in shares.items()
    }
    return values | _costs(outcome_cost(counts), engine, "outcome")


def _costs(cost: dict[str, float], engine: Counts | None, family: str) -> dict[str, float]:
    values = cost_metrics({**cost, **(engine or {})}, family)
    return values | failure_metrics(engine, family) if engine else values


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
