"""Numbers about one step's rollouts and critiques, under the names of metrics.py."""

from collections.abc import Iterable, Sequence

from capo_lit.batch import CritiquedRollout, Rollout


def rollout_metrics(rollouts: Sequence[Rollout], seconds: float) -> dict[str, float]:
    """The rollout/ family and the outcome's mean."""
    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    known = [rollout.outcome for rollout in rollouts if rollout.outcome is not None]
    values = {
        "rollout/tokens": float(sum(lengths)),
        "rollout/length_mean": sum(lengths) / len(lengths),
        "rollout/length_max": float(max(lengths)),
        "rollout/truncated_frac": _share(r.completion.finish_reason == "length" for r in rollouts),
        "rollout/tokens_per_s": sum(lengths) / seconds if seconds > 0 else 0.0,
        "reward/outcome_unknown_frac": _share(rollout.outcome is None for rollout in rollouts),
        "time/rollout_s": seconds,
    }
    if known:
        values["reward/outcome_mean"] = sum(known) / len(known)
    return values


def critique_metrics(critiqued: Sequence[CritiquedRollout], seconds: float) -> dict[str, float]:
    """The critique/ family, and what the steps look like: a policy that learns to dodge its judge shows here."""
    # Aborted ones could not change the vote any more: they are no abstentions.
    critiques = [critique for item in critiqued for critique in item.critiques if not critique.aborted]
    errors = [error for item in critiqued for error in item.verdict.step_error]
    tokens = sum(len(item.rollout.completion.ids) for item in critiqued)
    values = {
        "rollout/steps_mean": len(errors) / len(critiqued),
        "critique/no_verdict_frac": _share(item.verdict.valid == 0 for item in critiqued if item.spans),
        "critique/vote_agreement": sum(item.verdict.agreement for item in critiqued) / len(critiqued),
        "critique/parse_fail_frac": _share(critique.cause in ("parse", "length") for critique in critiques),
        "critique/abstain_frac": _share(critique.wrong is None for critique in critiques),
        "critique/timeout_frac": _share(critique.cause == "timeout" for critique in critiques),
        "time/critique_s": seconds,
    }
    if errors:
        values["critique/wrong_step_frac"] = sum(errors) / len(errors)
        values["rollout/tokens_per_step_mean"] = tokens / len(errors)
    return values | _ledger(critiqued)


def _ledger(critiqued: Sequence[CritiquedRollout]) -> dict[str, float]:
    """What the judge was asked and what that took; a stored critique costs nothing."""
    critiques = [critique for item in critiqued for critique in item.critiques]
    asked = [critique for critique in critiques if not critique.cached]
    read = sum(critique.prompt_tokens for critique in asked)
    wrote = sum(critique.completion_tokens for critique in asked)
    trained = sum(len(item.rollout.completion.ids) for item in critiqued if item.rollout.outcome is not None)
    values = {
        "critique/asked": float(len(asked)),
        "critique/aborted": float(sum(critique.aborted for critique in critiques)),
        "critique/cached_frac": _share(critique.cached for critique in critiques),
        "critique/judge_prompt_tokens": float(read),
        "critique/judge_completion_tokens": float(wrote),
    }
    if trained:
        values["critique/judge_tokens_per_trained_token"] = (read + wrote) / trained
    return values


def _share(flags: Iterable[bool]) -> float:
    values = list(flags)
    return sum(values) / len(values) if values else 0.0
