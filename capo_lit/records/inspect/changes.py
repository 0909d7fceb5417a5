"""What changes: a prompt's verdict over training, and a rollout's under another vote or other weights."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean

import pyarrow as pa
import pyarrow.compute as pc

from capo_lit.batch.credit import CreditConfig
from capo_lit.core.errors import DataError
from capo_lit.core.votes import VoteRule
from capo_lit.records.replay import Replay, replay

_NEW = ("step_error", "valid", "agreement", "token_rewards", "advantages")


@dataclass(frozen=True, slots=True)
class Visit:
    """A prompt at one training step.

    Attributes:
        step: of the training.
        wrong_steps: step error, mean over all steps of its judged rollouts, in [0, 1].
        right: share of right answers among the known outcomes, in [0, 1]; None if none is known.
        rollouts: how many of it were judged.
    """

    step: int
    wrong_steps: float
    right: float | None
    rollouts: int


@dataclass(frozen=True, slots=True)
class PromptHistory:
    """A prompt that a run saw more than once, oldest visit first."""

    run: str
    uid: str
    problem: str
    visits: tuple[Visit, ...]

    @property
    def change(self) -> float:
        """Of the share of wrong steps, from the first visit to the last; below 0: fewer."""
        return self.visits[-1].wrong_steps - self.visits[0].wrong_steps


def prompt_histories(table: pa.Table) -> list[PromptHistory]:
    """The prompts of judged rollouts that a run saw at two steps or more.

    Args:
        table: of `records.SCHEMA`.
    """
    names = ("run", "uid", "problem", "step", "outcome", "step_error")
    judged = table.select(names).filter(pc.is_valid(table["step_error"]))
    prompts: dict[tuple[str, str, str], dict[int, list[tuple[float | None, list[float]]]]] = {}
    for run, uid, problem, step, outcome, errors in zip(*(judged[name].to_pylist() for name in names), strict=True):
        steps = prompts.setdefault((run, uid, problem), defaultdict(list))
        steps[step].append((outcome, errors))
    return [
        PromptHistory(*prompt, tuple(_visit(step, steps[step]) for step in sorted(steps)))
        for prompt, steps in prompts.items()
        if len(steps) > 1
    ]


def _visit(step: int, rollouts: list[tuple[float | None, list[float]]]) -> Visit:
    errors = [error for _, row in rollouts for error in row]
    outcomes = [outcome for outcome, _ in rollouts if outcome is not None]
    right = fmean(outcomes) if outcomes else None
    return Visit(step, fmean(errors) if errors else 0.0, right, len(rollouts))


def replayed(table: pa.Table, rule: VoteRule, k: int | None, credit: CreditConfig | None) -> tuple[Replay, pa.Table]:
    """Replay records.

    Args:
        table: of `records.SCHEMA`, whole groups, all of them judged.
        rule: how to vote.
        k: critiques that vote; None: all.
        credit: weights and estimator; None: the paper's.

    Returns:
        The replay; and the table with the verdicts and the credit that it gave.

    Raises:
        ConfigError: as `replay`.
        DataError: if there are no rows.
    """
    if not len(table):
        raise DataError("no rollout that was judged", "records of a run with a judge", "replay", "the runs")
    summary = replay(table, rule, k, credit)
    for name in _NEW:
        column = summary.table[name].cast(table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return summary, table
