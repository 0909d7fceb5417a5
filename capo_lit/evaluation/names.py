"""Every metric of the project, once: its name, unit and meaning, and how the processes' values become one.

Unless a meaning says otherwise, a value is of one training step: one batch of rollouts, over all data-parallel
processes. A name that ends in _run is of the run so far, resumptions included, and counts what judges did for
evaluations and for the judge gate too.

    python -m capo_lit.evaluation.names > docs/metrics.md
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal, TypeVar

from capo_lit.core.errors import ConfigError

Reduction = Literal["mean", "sum", "max"]
_Values = TypeVar("_Values", bound=Mapping[str, object])


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: family/name, as loggers show it.
        unit: of the value; "share" is a fraction in [0, 1].
        meaning: what is counted, in one phrase.
        reduction: over data-parallel processes: the mean of all that is counted, wherever it was; the sum; or the
            largest.
        weight: of a mean, what it divides by: tokens, rollouts ...; "processes" for a number that each of them has.
        prog_bar: whether the progress bar shows it.
        best: of an evaluation, whether its largest value is the best one, or its smallest.
    """

    name: str
    unit: str
    meaning: str
    reduction: Reduction = "mean"
    weight: str = ""
    prog_bar: bool = False
    best: Literal["max", "min"] = "max"


# Causes of failed attempts; "other" are further statuses of HTTP, and causes that other engines have.
FAILURES = ("http_429", "http_5xx", "timeout", "connection", "unreadable", "refused", "other")


def _mean(name: str, unit: str, weight: str, meaning: str, prog_bar: bool = False) -> MetricSpec:
    return MetricSpec(name, unit, meaning, "mean", weight, prog_bar)


def _share(name: str, weight: str, meaning: str, prog_bar: bool = False) -> MetricSpec:
    return MetricSpec(name, "share", meaning, "mean", weight, prog_bar)


def _sum(name: str, unit: str, meaning: str) -> MetricSpec:
    return MetricSpec(name, unit, meaning, "sum")


def _max(name: str, unit: str, meaning: str, prog_bar: bool = False) -> MetricSpec:
    return MetricSpec(name, unit, meaning, "max", "", prog_bar)


_REWARD = (
    _share("reward/outcome_mean", "rollouts with a known outcome", "right answers among them", prog_bar=True),
    _mean("reward/token_mean", "reward", "trained tokens", "token reward R"),
    _share("reward/zero_std_group_frac", "groups", "without signal: every token advantage is 0, after voting"),
    _share(
        "reward/outcome_unknown_frac",
        "rollouts",
        "of unknown outcome: verifier timeout or crash, or no valid critique",
    ),
    _max("reward/adv_abs_max", "1", "largest absolute advantage of a token"),
)
_ROLLOUT = (
    _sum("rollout/count", "rollouts", "sampled in the step"),
    _sum("rollout/tokens", "tokens", "sampled in the step, end tokens included"),
    _mean("rollout/length_mean", "tokens", "rollouts", "response length, end token included"),
    _max("rollout/length_max", "tokens", "longest response"),
    _share("rollout/truncated_frac", "rollouts", "cut at max_tokens"),
    _mean("rollout/steps_mean", "steps", "rollouts", "steps of each; falling: the policy packs more into each step"),
    _mean("rollout/tokens_per_step_mean", "tokens", "steps", "response tokens per step"),
    _mean(
        "rollout/answer_chars_mean",
        "characters",
        "rollouts that state an answer",
        "length of the final answer; growing: reasoning is hidden in it",
    ),
    _mean("rollout/tokens_per_s", "tokens/s", "seconds", "tokens that a process samples", prog_bar=True),
)


def _judge(family: str) -> tuple[MetricSpec, ...]:
    """Of a judge of steps (critique/), and of a judge of outcomes (outcome/)."""
    return (
        _share(f"{family}/abstain_frac", "critiques", "without a verdict, whatever the cause; aborted ones left out"),
        _sum(f"{family}/asked", "critiques", "that the judge was asked for, aborted ones included"),
        _sum(f"{family}/judge_prompt_tokens", "tokens", "that the judge read for the critiques it finished"),
        _sum(f"{family}/judge_completion_tokens", "tokens", "that the judge wrote in the critiques it finished"),
        _sum(f"{family}/judge_tokens_run", "tokens", "that the judge read and wrote for those it finished"),
        _sum(f"{family}/failed_attempts", "attempts", "at critiques that brought none, first and later ones"),
    )


_CRITIQUE = (
    _share("critique/wrong_step_frac", "steps", "voted step error", prog_bar=True),
    _share("critique/vote_agreement", "rollouts", "valid critiques on the larger side, mean over steps"),
    _share("critique/no_verdict_frac", "rollouts with steps", "without a valid critique: no process penalty"),
    _mean("critique/gate_f1", "1", "processes", "F1 of the judge on labelled solutions, last score; needs a gate"),
    *_judge("critique"),
    _share("critique/parse_fail_frac", "critiques", "whose reply holds no verdict that can be read"),
    _share("critique/timeout_frac", "critiques", "that missed their deadline"),
    _share("critique/error_frac", "critiques", "that the engine could not bring, after all its attempts"),
    _sum("critique/aborted", "critiques", "called off because the vote was settled without them"),
    _sum("critique/aborted_completion_tokens", "tokens", "that the aborted ones wrote; a server does not tell"),
    _share("critique/prefix_cached_frac", "prompt tokens", "from the prefix cache of the judge's engine"),
    _share("critique/cached_frac", "critiques", "taken from the critique store instead of asked"),
    _mean(
        "critique/judge_tokens_per_trained_token_run",
        "tokens/token",
        "response tokens of training rollouts with a known outcome",
        "tokens that the judge read and wrote, for each of them",
    ),
    *(_sum(f"critique/failed_{cause}", "attempts", f"that failed: {cause.replace('_', ' ')}") for cause in FAILURES),
)
_POLICY = (
    _mean("policy/loss", "1", "updates", "the loss whose gradient was taken"),
    _mean("policy/grad_norm", "1", "updates", "2-norm of the gradient before clipping"),
    _mean("policy/lr", "1", "processes", "learning rate of the last update"),
    _mean("policy/entropy", "nats", "tokens", "entropy of the next-token distribution"),
    _share("policy/clip_low_frac", "tokens", "whose gradient the lower clip removed"),
    _share("policy/clip_high_frac", "tokens", "whose gradient the upper clip removed"),
    _mean("policy/ratio_mean", "1", "tokens", "probability ratio of new to old policy"),
    _mean("policy/approx_kl", "nats", "tokens", "k3 estimate of the divergence between old and new policy"),
    _mean("policy/kl_ref", "nats", "tokens", "k3 estimate of the divergence from the reference; needs kl_coef > 0"),
    _mean("policy/engine_logp_gap", "nats", "tokens", "absolute gap of engine and trainer logprobs"),
    _max("policy/engine_logp_gap_max", "nats", "absolute gap of engine and trainer logprobs, largest token"),
    _mean("policy/importance_mean", "1", "tokens", "truncated importance weight, trainer over engine"),
    _share("policy/importance_capped_frac", "tokens", "whose importance weight reached the cap"),
    _mean("policy/version", "updates", "processes", "optimizer steps that the weights have seen"),
    _share("policy/pad_frac", "tokens of the micro-batches", "padding"),
    _mean("policy/train_tokens_per_s", "tokens/s", "seconds", "trained on by a process, with prompts", prog_bar=True),
)
_TIME = (
    _max("time/sync_s", "s", "pushing weights into the engine; the slowest process"),
    _max("time/rollout_s", "s", "sampling and verifying; the slowest process"),
    _max("time/critique_s", "s", "waiting for the judge, beyond the time of the rollouts; the longest", prog_bar=True),
    _max("time/ahead_wait_s", "s", "waiting for what was sampled and judged ahead; the slowest process"),
    _max("time/update_s", "s", "forward, backward and optimizer; the slowest process"),
    _max("time/step_s", "s", "the whole training step; the slowest process"),
)
_SFT = (
    _mean("sft/loss", "nats", "response tokens", "negative logprob", prog_bar=True),
    _mean("sft/tokens_per_s", "tokens/s", "seconds", "trained on by a process, with prompts", prog_bar=True),
)
_VALUE = (
    _mean("value/loss", "1", "updates", "clipped squared error of the values; PPO alone"),
    _mean("value/mean", "reward", "trained tokens", "value V before the update"),
    _mean("value/return_mean", "reward", "trained tokens", "return that V should be"),
    _mean("value/explained_variance", "1", "squared deviations of returns", "1 - Var(return - V) / Var(return)"),
)
# Of one whole evaluation, under val/ and test/; evaluations reduce them over processes themselves.
_EVALUATION = (
    _share("val/avg_at_k", "problems", "right answers among a problem's k samples"),
    _share("val/pass_at_k", "problems", "with a right answer among k samples, unbiased estimate"),
    _share("val/maj_at_k", "problems", "whose most frequent answer among k samples is right; ties count in part"),
    _share("val/greedy_accuracy", "problems", "answered right at temperature 0"),
    _share("val/greedy_accuracy_low", "problems", "lower end of the accuracy's 95 % bootstrap interval over them"),
    _share("val/greedy_accuracy_high", "problems", "upper end of the accuracy's 95 % bootstrap interval over them"),
    replace(_share("val/step_error_frac", "steps of the samples", "wrong ones"), best="min"),
    _mean("val/first_error_step", "steps", "samples with a wrong step", "index of the first wrong one, from 0"),
    _share("val/judge_agreement", "judged samples", "valid critiques on the larger side, mean over steps"),
    _share("val/judge_precision", "steps that the training judge flags", "really wrong ones"),
    _share("val/judge_recall", "steps that are really wrong", "flagged by the training judge"),
    _mean(
        "val/judge_f1",
        "1",
        "flagged and wrong steps",
        "harmonic mean of those two; all three need --critique.score_judge true",
    ),
    _share("val/format_rate", "samples", "that state an answer where one is looked for"),
    replace(_mean("val/length_mean", "tokens", "samples", "response length, end token included"), best="min"),
    replace(_share("val/unknown_frac", "answers", "of unknown outcome"), best="min"),
)
# What lm-eval measures of texts falls as a model improves; its other metrics rise.
_FALLS = re.compile(r"/(word_perplexity|byte_perplexity|bits_per_byte|perplexity|brier_score|unknown_frac)\b")
# The names of what lm-eval tasks measure are the tasks' own: one row stands for them all.
LM_EVAL = MetricSpec("val/lm_eval/<task>/<metric>", "the task's", "what an lm-eval task measures", weight="the task's")

STEP_SPECS = (*_REWARD, *_ROLLOUT, *_CRITIQUE, *_judge("outcome"), *_POLICY, *_TIME, *_SFT, *_VALUE)
SPECS = (*STEP_SPECS, *_EVALUATION)
METRICS: dict[str, MetricSpec] = {metric.name: metric for metric in SPECS}
"""By name; a metric of evaluations stands here under val/ and means the same under test/."""


def spec(name: str) -> MetricSpec:
    """The metric of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name.startswith("val/lm_eval/"):
        return replace(LM_EVAL, name=name, best="min" if _FALLS.search(name) else "max")
    stage, _, rest = name.partition("/")
    found = METRICS.get(f"val/{rest}" if stage == "test" else name)
    if found is None:
        near = get_close_matches(name, METRICS, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(
            f"metric name {name!r}", f"a name defined there{hint}", change="define it in capo_lit/evaluation/names.py"
        )
    return replace(found, name=name)


def check_names(values: _Values) -> _Values:
    """The same values, after every name was looked up.

    Raises:
        ConfigError: for the first name that is not defined.
    """
    for name in values:
        spec(name)
    return values


def markdown_page() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "A value is of one training step, over all data-parallel processes. A mean divides once, by what all of them",
        'counted; so two processes log what one with all rollouts would. "processes": a number that each of them has.',
        "A step without anything to divide by has no such value.",
        "",
        "A name in `_run` is of the run so far, resumptions, evaluations and the judge gate included. What stands",
        "under `val/` is of one evaluation, and `capo test` logs the same under `test/`. The x-axis of every logger is",
        "`policy/version`.",
        "",
        "This page is written by `python -m capo_lit.evaluation.names > docs/metrics.md`.",
        "",
        "| metric | unit | reduction | meaning |",
        "|---|---|---|---|",
    ]
    for item in (*SPECS, LM_EVAL):
        how = f"mean over {item.weight}" if item.reduction == "mean" else item.reduction
        lines.append(f"| `{item.name}` | {item.unit} | {how} | {item.meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown_page())
