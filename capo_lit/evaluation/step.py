"""Numbers about one step's rollouts, critiques and credit, under the names of evaluation/names.py, of one process."""

from collections.abc import Iterable, Sequence

import torch

from capo_lit.batch.facts import CritiquedRollout, Rollout, TokenTable
from capo_lit.evaluation.cost import ENDS, Counts, cost_metrics, critique_cost, outcome_cost
from capo_lit.evaluation.reduction import Mean, Part, Parts
from capo_lit.verifier.answer import final_answer


def rollout_metrics(rollouts: Sequence[Rollout], seconds: float) -> Parts:
    """The rollout/ family and the outcome's mean. A policy that learns to dodge its judge shows in its steps."""
    lengths = [len(rollout.completion.ids) for rollout in rollouts]
    known = [rollout.outcome for rollout in rollouts if rollout.outcome is not None]
    answers = [answer for r in rollouts if (answer := final_answer(r.completion.text)) is not None]
    steps, tokens, count = sum(len(rollout.spans) for rollout in rollouts), sum(lengths), len(rollouts)
    return {
        "rollout/count": float(count),
        "rollout/tokens": float(tokens),
        "rollout/length_mean": Mean(tokens, count),
        "rollout/length_max": float(max(lengths)),
        "rollout/truncated_frac": _share(r.completion.finish_reason == "length" for r in rollouts),
        "rollout/steps_mean": Mean(steps, count),
        "rollout/tokens_per_step_mean": Mean(tokens, steps),
        "rollout/answer_chars_mean": Mean(sum(map(len, answers)), len(answers)),
        "rollout/tokens_per_s": Mean(tokens, seconds),
        "reward/outcome_mean": Mean(sum(known), len(known)),
        "reward/outcome_unknown_frac": Mean(count - len(known), count),
        "time/rollout_s": seconds,
    }


def critique_metrics(critiqued: Sequence[CritiquedRollout], seconds: float, engine: Counts | None = None) -> Parts:
    """The critique/ family.

    Args:
        critiqued: the rollouts of one step.
        seconds: that were waited for the judge.
        engine: what the judge's engine counted meanwhile; empty or None for a judge without one.
    """
    # Aborted ones could not change the vote any more: they are no abstentions.
    critiques = [critique for item in critiqued for critique in item.critiques if not critique.aborted]
    errors = [error for item in critiqued for error in item.verdict.step_error]
    return {
        "critique/wrong_step_frac": Mean(sum(errors), len(errors)),
        "critique/no_verdict_frac": _share(item.verdict.valid == 0 for item in critiqued if item.spans),
        "critique/vote_agreement": Mean(sum(item.verdict.agreement for item in critiqued), len(critiqued)),
        "critique/parse_fail_frac": _share(critique.cause in ("parse", "length") for critique in critiques),
        "critique/abstain_frac": _share(critique.wrong is None for critique in critiques),
        "critique/timeout_frac": _share(critique.cause == "timeout" for critique in critiques),
        "critique/error_frac": _share(critique.cause.startswith("error") for critique in critiques),
        "time/critique_s": seconds,
        **cost_metrics({**critique_cost(critiqued), **(engine or {})}, "critique"),
    }


def outcome_metrics(counts: Counts, engine: Counts) -> Parts:
    """The outcome/ family.

    Args:
        counts: of a judge of outcomes in one step, as GenORM.counters.
        engine: what its engine counted meanwhile.
    """
    came = sum(counts.get(name, 0.0) for name in ENDS)
    mute = came - counts.get("yes", 0.0) - counts.get("no", 0.0)
    cost = cost_metrics({**outcome_cost(counts), **engine}, "outcome")
    return {"outcome/abstain_frac": Mean(mute, came), **cost}


def credit_metrics(table: TokenTable) -> Parts:
    """The reward/ family: judged on token advantages after voting, never on outcomes alone."""
    group, tokens = table.group, float(table.mask.sum())
    silent = [not bool(table.advantages[group == index].any()) for index in torch.unique(group)]
    values: dict[str, Part] = {
        "reward/token_mean": Mean(float(table.token_rewards.sum(dtype=torch.float64)), tokens),
        "reward/zero_std_group_frac": _share(silent),
    }
    if table.advantages.numel():
        values["reward/adv_abs_max"] = float(table.advantages.abs().max())
    return values


def _share(flags: Iterable[bool]) -> Mean:
    values = list(flags)
    return Mean(sum(values), len(values))
