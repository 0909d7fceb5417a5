"""Every metric name of the project, once, with its unit and meaning; nothing else may be logged.

Unless a meaning says otherwise, a value is of one training step (one batch of rollouts), and the mean over
data-parallel ranks. A name that ends in _run has the same meaning over the run so far, resumptions included, and with
what the judge did for evaluations and for the judge gate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import groupby

from capo_lit.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: family/name, as loggers show it.
        unit: of the value; "share" is a fraction in [0, 1].
        meaning: what is counted over what, in one phrase.
        prog_bar: whether the progress bar shows it.
    """

    name: str
    unit: str
    meaning: str
    prog_bar: bool = False


# Causes of failed attempts; "other" are further statuses of HTTP, and causes that other engines have.
FAILURES = ("http_429", "http_5xx", "timeout", "connection", "empty", "unreadable", "refused", "other")


def _both(name: str, unit: str, meaning: str) -> tuple[MetricSpec, ...]:
    """The metric of a step, and of the run so far."""
    return MetricSpec(name, unit, meaning), MetricSpec(f"{name}_run", unit, meaning)


def _judged(name: str, unit: str, meaning: str, run: bool = False) -> tuple[MetricSpec, ...]:
    """The metric of both kinds of judges, of a step, and with `run` of the run so far."""
    names = [f"{family}/{name}" for family in ("critique", "outcome")]
    return tuple(spec for one in names for spec in _both(one, unit, meaning)[: 1 + run])


_REWARD = (
    MetricSpec("reward/outcome_mean", "share", "right answers among rollouts with a known outcome", prog_bar=True),
    MetricSpec("reward/token_mean", "reward", "token reward R, mean over all trained tokens"),
    MetricSpec(
        "reward/zero_std_group_frac", "share", "groups without signal: every token advantage is 0, after voting"
    ),
    MetricSpec(
        "reward/outcome_unknown_frac",
        "share",
        "rollouts of unknown outcome: verifier timeout or crash, or no valid critique",
    ),
    MetricSpec("reward/adv_abs_max", "1", "largest absolute advantage of a token"),
)
_ROLLOUT = (
    MetricSpec("rollout/tokens", "tokens", "tokens sampled in the step, end tokens included, per process"),
    MetricSpec("rollout/length_mean", "tokens", "response length, end token included"),
    MetricSpec("rollout/length_max", "tokens", "longest response"),
    MetricSpec("rollout/truncated_frac", "share", "rollouts cut at max_tokens"),
    MetricSpec("rollout/steps_mean", "steps", "steps per rollout; falling means the policy packs more into each"),
    MetricSpec("rollout/tokens_per_step_mean", "tokens", "response tokens per step"),
    MetricSpec(
        "rollout/answer_chars_mean",
        "characters",
        "length of the final answer, mean over rollouts that state one; growing means reasoning is hidden in it",
    ),
    MetricSpec("rollout/alarms", "alarms", "watched metrics out of their band around the start; needs AlarmCallback"),
    MetricSpec("rollout/tokens_per_s", "tokens/s", "sampled tokens per second of rollout", prog_bar=True),
)
_CRITIQUE = (
    MetricSpec("critique/wrong_step_frac", "share", "voted step error, mean over all steps", prog_bar=True),
    MetricSpec("critique/vote_agreement", "share", "valid critiques on the larger side, mean over steps and rollouts"),
    MetricSpec("critique/no_verdict_frac", "share", "rollouts with steps but no valid critique: no process penalty"),
    MetricSpec("critique/gate_f1", "1", "F1 of the judge on labelled solutions, at its last score; needs a judge gate"),
    MetricSpec("critique/process_scale", "1", "factor in [0, 1] on w_process that the judge gate sets by that score"),
)
# Of a judge of steps (critique/) and of a judge of outcomes (outcome/).
_JUDGES = (
    *_judged("abstain_frac", "share", "critiques without a verdict, whatever the cause; aborted ones left out"),
    *_judged("parse_fail_frac", "share", "critiques whose reply holds no verdict that can be read"),
    *_judged("timeout_frac", "share", "critiques that missed their deadline"),
    *_judged("error_frac", "share", "critiques that the engine could not bring, after all its attempts"),
    *_judged("asked", "critiques", "critiques that the judge was asked for, aborted ones included", run=True),
    *_judged("aborted", "critiques", "critiques called off because the vote was settled without them", run=True),
    *_judged("aborted_completion_tokens", "tokens", "tokens the aborted ones wrote; a server does not tell", run=True),
    *_judged("judge_prompt_tokens", "tokens", "tokens the judge read, sum over the critiques it finished", run=True),
    *_judged("judge_completion_tokens", "tokens", "tokens the judge wrote, sum over those it finished", run=True),
    *_judged("judge_tokens", "tokens", "tokens the judge read and wrote, for the critiques it finished", run=True),
    *_judged("prefix_cached_frac", "share", "prompt tokens from the prefix cache of the judge's engine", run=True),
    *_judged("failed_attempts", "attempts", "attempts at critiques that brought none, first and later ones", run=True),
    *(spec for cause in FAILURES for spec in _judged(f"failed_{cause}", "attempts", "such attempts by their cause")),
)
_LEDGER = (
    *_both(
        "critique/aborted_prompt_tokens",
        "tokens",
        "prompts of the aborted critiques, read or not",
    ),
    *_both("critique/judge_s", "s", "from a critique's submission to its end, sum over those asked, which overlap"),
    *_both("critique/cached_frac", "share", "critiques taken from the critique store instead of asked"),
    *_both(
        "critique/judge_tokens_per_trained_token",
        "tokens/token",
        "tokens the judge read and wrote, per response token of training rollouts with a known outcome",
    ),
)
_POLICY = (
    MetricSpec("policy/loss", "1", "the loss whose gradient was taken, mean over the step's updates"),
    MetricSpec("policy/grad_norm", "1", "2-norm of the gradient before clipping, mean over the step's updates"),
    MetricSpec("policy/lr", "1", "learning rate of the last update"),
    MetricSpec("policy/entropy", "nats", "entropy of the next-token distribution, mean over tokens"),
    MetricSpec("policy/clip_low_frac", "share", "tokens whose gradient the lower clip removed"),
    MetricSpec("policy/clip_high_frac", "share", "tokens whose gradient the upper clip removed"),
    MetricSpec("policy/ratio_mean", "1", "probability ratio of new to old policy, mean over tokens"),
    MetricSpec("policy/approx_kl", "nats", "k3 estimate of the divergence between old and new policy"),
    MetricSpec("policy/kl_ref", "nats", "k3 estimate of the divergence from the reference model; needs kl_coef > 0"),
    MetricSpec("policy/engine_logp_gap", "nats", "absolute gap of engine and trainer logprobs, mean over tokens"),
    MetricSpec("policy/engine_logp_gap_max", "nats", "absolute gap of engine and trainer logprobs, largest token"),
    MetricSpec("policy/importance_mean", "1", "truncated importance weight (trainer over engine), mean over tokens"),
    MetricSpec("policy/importance_capped_frac", "share", "tokens whose importance weight reached the cap"),
    MetricSpec("policy/version", "updates", "optimizer steps that the weights have seen"),
    MetricSpec("policy/pad_frac", "share", "padding among the tokens of the micro-batches"),
    MetricSpec("policy/train_tokens_per_s", "tokens/s", "tokens per second of update, prompts included", prog_bar=True),
)
_TIME = (
    MetricSpec("time/sync_s", "s", "pushing weights into the engine"),
    MetricSpec("time/rollout_s", "s", "sampling and verifying"),
    MetricSpec("time/critique_s", "s", "waiting for the judge, beyond the time of the rollouts", prog_bar=True),
    MetricSpec("time/critique_s_run", "s", "waiting for the judge, beyond the time of the rollouts"),
    MetricSpec("time/update_s", "s", "forward, backward and optimizer"),
    MetricSpec("time/step_s", "s", "the whole training step"),
)
_SFT = (
    MetricSpec("sft/loss", "nats", "negative logprob of the response tokens, mean over tokens", prog_bar=True),
    MetricSpec("sft/tokens_per_s", "tokens/s", "tokens per second of update, prompts included", prog_bar=True),
)
# Over one whole evaluation and all ranks; without the stage's prefix.
_EVALUATION = (
    MetricSpec("avg_at_k", "share", "right answers among a problem's k samples, mean over problems"),
    MetricSpec("pass_at_k", "share", "problems with a right answer among k samples, unbiased estimate"),
    MetricSpec("maj_at_k", "share", "problems whose most frequent answer among k samples is right; ties count in part"),
    MetricSpec("greedy_accuracy", "share", "problems answered right at temperature 0"),
    MetricSpec("greedy_accuracy_low", "share", "an end of the accuracy's 95 % bootstrap interval over problems"),
    MetricSpec("greedy_accuracy_high", "share", "an end of the accuracy's 95 % bootstrap interval over problems"),
    MetricSpec("step_error_frac", "share", "wrong steps among all steps of the samples"),
    MetricSpec("first_error_step", "steps", "index of the first wrong step, from 0, mean over samples that have one"),
    MetricSpec("judge_agreement", "share", "valid critiques on the larger side, mean over steps and judged samples"),
    MetricSpec("judge_precision", "share", "really wrong steps among those that the training judge flags"),
    MetricSpec("judge_recall", "share", "steps flagged by the training judge among the really wrong ones"),
    MetricSpec("judge_f1", "1", "harmonic mean of those two; all three need --critique.score_judge true"),
    MetricSpec("format_rate", "share", "samples that state an answer where one is looked for"),
    MetricSpec("length_mean", "tokens", "response length of the samples, end token included"),
    MetricSpec("unknown_frac", "share", "answers whose outcome is unknown"),
)
_VALUE = (
    MetricSpec("value/loss", "1", "clipped squared error of the values, mean over the step's updates; PPO alone"),
    MetricSpec("value/mean", "reward", "value V before the update, mean over all trained tokens"),
    MetricSpec("value/return_mean", "reward", "return that V should be, mean over all trained tokens"),
    MetricSpec("value/explained_variance", "1", "1 - Var(return - V) / Var(return) over tokens; 0 says nothing, 1 all"),
)
# The names of what lm-eval tasks measure are the tasks' own: one row stands for them all.
LM_EVAL = MetricSpec("val/lm_eval/<task>/<metric>", "the task's", "what an lm-eval task measures over its problems")
STAGES = ("val", "test")


def _evaluation_specs() -> tuple[MetricSpec, ...]:
    return tuple(
        MetricSpec(f"{stage}/{spec.name}", spec.unit, spec.meaning, spec.prog_bar)
        for spec in _EVALUATION
        for stage in STAGES
    )


SPECS = (
    *_REWARD,
    *_ROLLOUT,
    *_CRITIQUE,
    *_JUDGES,
    *_LEDGER,
    *_POLICY,
    *_TIME,
    *_evaluation_specs(),
    *_SFT,
    *_VALUE,
)
METRICS: dict[str, MetricSpec] = {metric.name: metric for metric in SPECS}


def spec(name: str) -> MetricSpec:
    """The metric of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name.startswith("val/lm_eval/"):
        return replace(LM_EVAL, name=name)
    if name not in METRICS:
        near = get_close_matches(name, METRICS, n=1)
        hint = f" (nearest: {near[0]})" if near else ""
        raise ConfigError(
            f"metric name {name!r}", f"a name defined there{hint}", change="define it in capo_lit/evaluation/names.py"
        )
    return METRICS[name]


def check_names(values: Mapping[str, float]) -> Mapping[str, float]:
    """The same values, after every name was looked up.

    Raises:
        ConfigError: for the first name that is not defined.
    """
    for name in values:
        spec(name)
    return values


def markdown_table() -> str:
    """The table of the README; names that share unit and meaning share a row."""
    lines = ["| metric | unit | meaning |", "|---|---|---|"]
    for (unit, meaning), specs in groupby((*METRICS.values(), LM_EVAL), key=lambda item: (item.unit, item.meaning)):
        names = ", ".join(f"`{item.name}`" for item in specs)
        lines.append(f"| {names} | {unit} | {meaning} |")
    return "\n".join(lines) + "\n"
