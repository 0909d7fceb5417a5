"""Recorded rollouts: filtered, searched, ranked, replayed, tabulated."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capo_lit.batch.credit import CreditConfig
from capo_lit.core.votes import VoteRule
from capo_lit.records.inspect.changes import PromptHistory, prompt_histories, replayed
from capo_lit.records.inspect.html import STYLE, ShownRecord, pair_html, table_html
from capo_lit.records.inspect.record import DIGITS, WRONG_FROM, Outcome, Record, outcome_word
from capo_lit.records.replay import Replay

Truth = Callable[[Record], frozenset[int]]

_SHOWN = 10
_GROUP = ("run", "step", "rank", "group")  # what the samples of one prompt share
_TEXTS = ("uid", "problem", "text")


@dataclass(frozen=True)
class Rollouts:
    """Some rows of loaded records; it is never changed.

    Args:
        whole: all rows that were loaded, of `records.SCHEMA`.
        rows: the rows of `whole` that are in it, in its order.
    """

    whole: pa.Table
    rows: tuple[int, ...]

    @property
    def table(self) -> pa.Table:
        """Its rows, all columns."""
        return self.whole.take(pa.array(self.rows, pa.int64()))

    @property
    def runs(self) -> list[str]:
        """Names of its runs, each once."""
        return list(dict.fromkeys(self.table["run"].to_pylist()))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Record:
        if not -len(self) <= index < len(self):
            raise IndexError(f"rollout {index} of {len(self)}; filters may have left none")
        return self._record(self.rows[index])

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(len(self)))

    def where(
        self,
        *,
        run: str | None = None,
        step: int | range | None = None,
        outcome: Outcome | None = None,
        min_disagreement: float | None = None,
        min_advantage: float | None = None,
        text: str | None = None,
        uid: str | None = None,
    ) -> "Rollouts":
        """Those that fit all that is given.

        Args:
            run: name of their run.
            step: their training step, or a range of them.
            outcome: "right", "wrong" or "unknown".
            min_disagreement: 1 - agreement, in [0, 0.5], is at least this; leaves out what nobody judged.
            min_advantage: a token's |advantage| is at least this.
            text: their uid, problem, solution or a critique holds it, in upper or lower case.
            uid: of their prompt.
        """
        table, keep = self.whole, np.ones(len(self.whole), bool)
        if run is not None:
            keep &= _bools(pc.equal(table["run"], run))
        if step is not None:
            keep &= np.isin(table["step"].to_numpy(), [step] if isinstance(step, int) else list(step))
        if outcome is not None:
            keep &= [outcome_word(value) == outcome for value in table["outcome"].to_pylist()]
        if min_disagreement is not None:
            keep &= self._disagreement >= min_disagreement
        if min_advantage is not None:
            keep &= self._peak >= min_advantage
        if text is not None:
            keep &= _holds(table, text)
        if uid is not None:
            keep &= _bools(pc.equal(table["uid"], uid))
        return self._of([row for row in self.rows if keep[row]])

    def most_disagreed(self, n: int = 10) -> "Rollouts":
        """Those whose critiques disagree most, the most disputed first; none on which all agree."""
        return self._top(n, self._disagreement)

    def largest_advantages(self, n: int = 10) -> "Rollouts":
        """Those with the largest |advantage| of a token, the largest first."""
        return self._top(n, self._peak)

    def false_positives(self, n: int = 10, truth: Truth | None = None) -> "Rollouts":
        """Right answers in which the vote called a step wrong, those with most such steps first.

        A right answer can be reached by wrong steps, so that without `truth` these are suspects.

        Args:
            n: at most so many.
            truth: the steps of a record that are truly wrong; given, only right steps count.
        """
        counts = np.zeros(len(self.whole))
        for row in self.where(outcome="right").rows:
            flags = self._flagged[row]
            counts[row] = len(flags - truth(self._record(row)) if truth and flags else flags)
        return self._top(n, counts)

    def lucky(self, n: int, truth: Truth) -> "Rollouts":
        """Right answers reached by truly wrong steps, judged or not, those with most such steps first."""
        counts = np.zeros(len(self.whole))
        for row in self.where(outcome="right").rows:
            counts[row] = len(truth(self._record(row)))
        return self._top(n, counts)

    def group_of(self, record: Record) -> "Rollouts":
        """All samples of a record's prompt at its step, filtered out or not: what its advantages compare it with."""
        same = [_bools(pc.equal(self.whole[name], record.row[name])) for name in _GROUP]
        return self._of(np.flatnonzero(np.logical_and.reduce(same)).tolist())

    def verdict_changes(self, min_change: float = 0.0) -> list[PromptHistory]:
        """Prompts that were seen at several steps and whose share of wrong steps changed, the largest change first.

        Args:
            min_change: between the first and the last visit, in [0, 1]; what changed by this or less is left out.
        """
        found = [history for history in prompt_histories(self.table) if abs(history.change) > min_change]
        return sorted(found, key=lambda history: -abs(history.change))

    def replay(self, rule: VoteRule, k: int | None = None, credit: CreditConfig | None = None) -> "Replayed":
        """Vote the recorded critiques anew, and compute the credit that follows. No judge is asked.

        Their whole groups are replayed, with what is filtered out of them; rollouts that nobody judged are left out.

        Args:
            rule: how to vote.
            k: critiques that vote, from the first of each rollout; by default all.
            credit: weights and estimator; by default those of the records, which give the change of the vote alone.

        Raises:
            ConfigError: if there are not k critiques.
            DataError: if nothing was judged.
        """
        ours = np.isin(self._groups, self._groups[list(self.rows)])
        kept = np.flatnonzero(ours & _bools(pc.is_valid(self.whole["critiques"])))
        before = self.whole.take(pa.array(kept))
        summary, after = replayed(before, rule, k, credit)
        places = {row: place for place, row in enumerate(kept.tolist())}
        rows = tuple(places[row] for row in self.rows if row in places)
        return Replayed(summary, Rollouts(before, rows), Rollouts(after, rows))

    def overview(self) -> pa.Table:
        """One row per rollout with its facts, for tables and lists; null where nobody judged."""
        table, rows = self.table, list(self.rows)
        columns = {name: table[name] for name in ("run", "step", "rank", "row", "group", "sample", "uid", "problem")}
        judged = pc.is_valid(table["step_error"]).to_pylist()
        disagreement = self._disagreement[rows]
        wrong = [len(self._flagged[row]) if valid else None for row, valid in zip(rows, judged, strict=True)]
        return pa.table(
            {
                **columns,
                "outcome": [outcome_word(value) for value in table["outcome"].to_pylist()],
                "steps": pc.list_value_length(table["step_error"]),
                "wrong_steps": pa.array(wrong, pa.int32()),
                "disagreement": pa.array(disagreement, pa.float32(), mask=disagreement < 0),
                "peak_advantage": self._peak[rows],
                "tokens": pc.list_value_length(table["response_ids"]),
                "critiques": pc.list_value_length(table["critiques"]),
            }
        )

    def _repr_html_(self) -> str:
        left_out = ("rank", "row", "group", "uid")
        table = self.overview().slice(0, _SHOWN).drop_columns(left_out)
        rows = [list(row.values()) for row in table.to_pylist()]
        words = f'<p class="capo-small">{len(self)} rollouts{", the first ones:" if len(self) > _SHOWN else ""}</p>'
        return f"<style>{STYLE}</style>{words}{table_html(rows, table.column_names)}"

    def _record(self, row: int) -> Record:
        return ShownRecord(self.whole.slice(row, 1).to_pylist()[0])

    @cached_property
    def _flagged(self) -> list[frozenset[int]]:
        """The steps called wrong in every row of `whole`."""
        errors = self.whole["step_error"].to_pylist()
        return [frozenset(i for i, error in enumerate(row or ()) if error >= WRONG_FROM) for row in errors]

    @cached_property
    def _groups(self) -> np.ndarray:
        """A number for every row of `whole`; the same number: samples of one prompt, compared with each other."""
        columns = [np.unique(self.whole[name].to_numpy(), return_inverse=True)[1] for name in _GROUP]
        return np.asarray(np.unique(np.stack(columns), axis=1, return_inverse=True)[1]).reshape(-1)

    @cached_property
    def _disagreement(self) -> np.ndarray:
        """1 - agreement of every row of `whole`; -1 where nobody judged."""
        agreement = pc.fill_null(self.whole["agreement"], 2.0).to_numpy()
        return np.asarray(np.round(1 - agreement.astype(np.float64), DIGITS))

    @cached_property
    def _peak(self) -> np.ndarray:
        """The largest |advantage| of every row of `whole`; 0 without any."""
        column = self.whole["advantages"].combine_chunks()
        peak = np.zeros(len(column))
        values = np.abs(np.asarray(pc.list_flatten(column), np.float64))
        np.maximum.at(peak, np.asarray(pc.list_parent_indices(column)), values)
        return peak

    def _top(self, n: int, score: np.ndarray) -> "Rollouts":
        """The n with the highest positive score; ties in order of record."""
        return self._of(sorted((row for row in self.rows if score[row] > 0), key=lambda row: -score[row])[:n])

    def _of(self, rows: Sequence[int]) -> "Rollouts":
        return Rollouts(self.whole, tuple(rows))


@dataclass(frozen=True)
class Replayed:
    """Rollouts under another vote or other weights, beside what was recorded.

    Attributes:
        summary: of all that was replayed, the whole groups of those rollouts, in numbers.
        before: the rollouts as recorded.
        after: the same ones in the same order, with the verdict and credit that the replay gave.
    """

    summary: Replay
    before: Rollouts
    after: Rollouts

    def changed(self, n: int = 10) -> list[tuple[Record, Record]]:
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


def _bools(values: pa.ChunkedArray) -> np.ndarray:
    found: np.ndarray = np.asarray(pc.fill_null(values, False), bool)
    return found


def _holds(table: pa.Table, text: str) -> np.ndarray:
    """Whether a row's uid, problem, solution or one of its critiques holds a text."""

    def match(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
        return _bools(pc.match_substring(column, text, ignore_case=True))

    found: np.ndarray = np.logical_or.reduce([match(table[name]) for name in _TEXTS])
    critiques = table["critiques"].combine_chunks()
    replies = match(pc.struct_field(pc.list_flatten(critiques), "reply"))
    found[np.asarray(pc.list_parent_indices(critiques))[replies]] = True
    return found


def _sizes(old: pa.Table, new: pa.Table) -> list[float]:
    """The largest |change| of an advantage in every rollout; 0 where none was recorded."""
    pairs = zip(old["advantages"].to_pylist(), new["advantages"].to_pylist(), strict=True)
    return [max((abs(a - b) for a, b in zip(x or (), y, strict=False)), default=0.0) for x, y in pairs]
