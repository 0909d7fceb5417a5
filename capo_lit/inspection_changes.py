"""What changes: a prompt's verdict over training, and a rollout's under another vote or other weights."""

from collections import defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from capo_lit.core.votes import VoteRule
from capo_lit.errors import DataError
from capo_lit.genprm.replay import Replay, replay
from capo_lit.inspection_html import STYLE, pair_html, table_html
from capo_lit.settings import CreditConfig

if TYPE_CHECKING:
    from capo_lit.inspection_record import Record
    from capo_lit.inspection_rollouts import Rollouts

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


@dataclass(frozen=True)
class Replayed:
    """Rollouts under another vote or other weights, beside what was recorded.

    Attributes:
        summary: of all that was replayed, the whole groups of those rollouts, in numbers.
        before: the rollouts as recorded.
        after: the same ones in the same order, with the verdict and credit that the replay gave.
    """

    summary: Replay
    before: "Rollouts"
    after: "Rollouts"

    def changed(self, n: int = 10) -> "list[tuple[Record, Record]]":
        """Those whose verdict or credit changed, as (before, after), the largest change of an advantage first."""
        old, new = self.before.table, self.after.table
        sizes = _sizes(old, new)
        differs = [i for i, size in enumerate(sizes) if size > 0 or old["step_error"][i] != new["step_error"][i]]
        order = sorted(differs, key=lambda index: -sizes[index])[:n]
        return [(self.before[index], self.after[index]) for index in order]

    def _repr_html_(self) -> str:
        one = self.summary
        errors = [error for row in self.before.whole["step_error"].drop_null().to_pylist() for error in row]
        rows = [
            ("share of steps called wrong, as recorded", fmean(errors) if errors else None),
            (f"the same under {one.rule} of {one.k}", one.wrong_step_frac),
            ("rollouts whose verdict changed", one.changed),
            ("rollouts that a missing critique could change", one.undecided),
            ("reward per token", one.token_reward),
            ("|change| of the advantage per token", one.advantage_change),
        ]
        pairs = "".join(pair_html(before, after) for before, after in self.changed(1))
        return f"<style>{STYLE}</style>{table_html(rows, ('the groups of these rollouts', ''))}{pairs}"


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


def _sizes(old: pa.Table, new: pa.Table) -> list[float]:
    """The largest |change| of an advantage in every rollout; 0 where none was recorded."""
    pairs = zip(old["advantages"].to_pylist(), new["advantages"].to_pylist(), strict=True)
    return [max((abs(a - b) for a, b in zip(x or (), y, strict=False)), default=0.0) for x, y in pairs]
