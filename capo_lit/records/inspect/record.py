"""One recorded rollout as a person reads it: steps with their verdicts, tokens with their credit, critiques, votes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from capo_lit.batch.facts import Critique, Span
from capo_lit.core.steps import split_steps, token_steps

Outcome = Literal["right", "wrong", "unknown"]
Ballot = Literal["wrong", "right", "abstained", "called off"]

# From this error on a step counts as called wrong, as under the majority vote.
WRONG_FROM = 0.5
# Of a disagreement: agreement is recorded in float32, where 1 - 0.8 is less than 0.2.
DIGITS = 6
_BLANK_LINES = re.compile(r"\n{2,}")


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token; None where the record has no such column.

    Attributes:
        text: its decoded text; "" for special tokens.
        special: whether it is a special token.
        step: 0-based step it belongs to; -1 for none.
        reward: token reward.
        advantage: token advantage.
        engine_logprob: natural log, under the engine that sampled it.
        trainer_logprob: natural log, under the trainer before the update.
    """

    text: str
    special: bool
    step: int
    reward: float | None
    advantage: float | None
    engine_logprob: float | None
    trainer_logprob: float | None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a solution.

    Attributes:
        index: 0-based.
        text: of the step, with the white space that ends it.
        error: e in [0, 1]; None if nobody judged.
        tokens: those that begin in it.
    """

    index: int
    text: str
    error: float | None
    tokens: tuple[Token, ...]

    @property
    def called_wrong(self) -> bool:
        """Whether the vote called it wrong."""
        return self.error is not None and self.error >= WRONG_FROM


@dataclass(frozen=True)
class Record:
    """One row of the records.

    Args:
        row: all columns of `records.SCHEMA`, as `pyarrow.Table.to_pylist` gives them.
    """

    row: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Run, step, rank and row: what no two records share."""
        return self.row["run"], self.row["step"], self.row["rank"], self.row["row"]

    @property
    def title(self) -> str:
        """Where it comes from, in words."""
        return f"{self.row['run']}, step {self.row['step']}, sample {self.row['sample']} of {self.row['uid']}"

    def __str__(self) -> str:
        """The rollout in plain lines for a terminal, without the control characters that one obeys."""
        lines = [f"{self.title}: {self.outcome} answer", self.row["problem"]]
        for step in self.steps:
            verdict = "not judged" if step.error is None else "wrong" if step.called_wrong else "right"
            lines.append(f"{step.index} {verdict}: {step.text.strip()}")
        lines += [f"critique {number}: {one.reply or one.cause}" for number, one in enumerate(self.critiques)]
        return "".join(c if c in "\n\t" or c.isprintable() else "\ufffd" for c in "\n".join(lines))

    @property
    def outcome(self) -> Outcome:
        """Whether the answer is right."""
        return outcome_word(self.row["outcome"])

    @property
    def judged(self) -> bool:
        """Whether a judge was asked."""
        return self.row["critiques"] is not None

    @property
    def disagreement(self) -> float | None:
        """1 - agreement of its critiques, in [0, 0.5]; None if nobody judged."""
        return None if self.row["agreement"] is None else round(1 - self.row["agreement"], DIGITS)

    @property
    def peak_advantage(self) -> float:
        """The largest |advantage| of a token; 0 without advantages."""
        return max((abs(value) for value in self.row["advantages"] or ()), default=0.0)

    @property
    def spans(self) -> tuple[Span, ...]:
        """Character spans of the steps; where an older record has none, the paragraphs."""
        if self.row["spans"] is None:
            return tuple(split_steps(self.row["text"]))
        return tuple((span["start"], span["end"]) for span in self.row["spans"])

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """The generated tokens."""
        row = self.row
        steps = token_steps(row["pieces"], self.spans, row["special"])
        names = ("token_rewards", "advantages", "engine_logprobs", "trainer_logprobs")
        columns = [row[name] or [None] * len(steps) for name in names]
        return tuple(map(Token, row["pieces"], row["special"], steps, *columns))

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps, in order."""
        errors = self.row["step_error"] or [None] * len(self.spans)
        found = []
        for index, ((start, end), error) in enumerate(zip(self.spans, errors, strict=True)):
            own = tuple(token for token in self.tokens if token.step == index)
            found.append(Step(index, self.row["text"][start:end], error, own))
        return tuple(found)

    @cached_property
    def critiques(self) -> tuple[Critique, ...]:
        """The critiques, in the order in which they were asked."""
        return _critiques(self.row["critiques"])

    @cached_property
    def outcome_critiques(self) -> tuple[Critique, ...]:
        """What a GenORM said of the whole solution; `wrong` is {0} where it called the answer wrong."""
        return _critiques(self.row["outcome_critiques"])

    @property
    def votes(self) -> tuple[tuple[Ballot, ...], ...]:
        """What every critique says of every step: one row per step, one column per critique."""
        return tuple(tuple(_ballot(one, step) for one in self.critiques) for step in range(len(self.spans)))


def outcome_word(outcome: float | None) -> Outcome:
    """A recorded outcome in a word."""
    return "unknown" if outcome is None else "right" if outcome == 1 else "wrong"


def _critiques(recorded: Sequence[Mapping[str, Any]] | None) -> tuple[Critique, ...]:
    return tuple(
        Critique(**{**one, "wrong": None if one["wrong"] is None else frozenset(one["wrong"])})
        for one in recorded or ()
    )


def one_line_breaks(text: str) -> str:
    """Text of a token with its blank lines as a mark: they end most steps, and every step has a box of its own."""
    return _BLANK_LINES.sub("⏎", text)


def _ballot(critique: Critique, step: int) -> Ballot:
    if critique.aborted:
        return "called off"
    if critique.wrong is None:
        return "abstained"
    return "wrong" if step in critique.wrong else "right"
