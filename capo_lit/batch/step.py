"""The carrier of one training step, StepBatch, and the one padding function; the facts it carries are in facts."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

import torch

from capo_lit.batch.facts import CritiquedRollout, Prompt, Rollout, TokenTable
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import BatchError


class StepBatch:
    """The carrier Lightning hands to every hook of one step: slots that are written once.

    A plain class on purpose. Lightning passes the same object to callbacks and module, so it can be filled but not
    replaced; its half-precision input cast rebuilds dataclasses and dicts, and leaves this alone.

    Args:
        prompts: the b prompts of this step.
        step: rollout step of the run, from 0; goes on counting over epochs and resumed runs.

    Attributes:
        sampling: how the rollouts were drawn; None until they are set.
        rollout_seconds: time spent waiting for rollouts so far, and not on what readers do between two of them.
        critique_seconds: time spent waiting for the judge, beyond that.
        outcome_counts: what a judge of outcomes counted meanwhile, by name.
    """

    def __init__(self, prompts: Sequence[Prompt], step: int) -> None:
        self.prompts = tuple(prompts)
        self.step = step
        self.sampling: Sampling | None = None
        self.rollout_seconds = self.critique_seconds = 0.0
        self.outcome_counts: Mapping[str, float] = {}
        self._source: Iterator[Rollout] | None = None
        self._rollouts: list[Rollout] = []
        self._critiqued: tuple[CritiquedRollout, ...] | None = None
        self._credit: TokenTable | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def set_rollouts(self, rollouts: Iterable[Rollout], sampling: Sampling | None = None) -> None:
        """Fill the slot with rollouts, or with an iterator that yields each one when it finishes.

        Args:
            rollouts: in any order; their `row`s must be 0..n-1.
            sampling: how they were drawn; the trainer needs the temperature. None means temperature 1, untruncated.

        Raises:
            BatchError: if the slot is filled.
        """
        if self._source is not None:
            raise self._filled("rollouts")
        self._source = iter(rollouts)
        self.sampling = sampling

    def stream_rollouts(self) -> Iterator[Rollout]:
        """Yield the rollouts in the order they finish; what one reader has drawn, the next reader sees again.

        Raises:
            BatchError: if no rollouts were set.
        """
        if self._source is None:
            raise BatchError(
                f"no rollouts in the batch of step {self.step}",
                "rollouts set before they are read",
                change="add capo_lit.RolloutCallback to the Trainer's callbacks, before all others",
            )
        for index in count():
            if index == len(self._rollouts):
                started = time.perf_counter()
                rollout = next(self._source, None)
                self.rollout_seconds += time.perf_counter() - started
                if rollout is None:
                    return
                self._rollouts.append(rollout)
            yield self._rollouts[index]

    def require_rollouts(self) -> tuple[Rollout, ...]:
        """All rollouts, in row order; waits for those that still generate.

        Raises:
            BatchError: if no rollouts were set.
        """
        return tuple(sorted(self.stream_rollouts(), key=lambda rollout: rollout.row))

    def set_verdicts(self, critiqued: Iterable[CritiquedRollout]) -> None:
        """Fill the slot with one CritiquedRollout per rollout, in any order.

        Raises:
            BatchError: if the slot is filled, or a rollout has no verdict or several.
        """
        if self._critiqued is not None:
            raise self._filled("verdicts")
        rows = sorted(critiqued, key=lambda item: item.rollout.row)
        got, expected = [c.rollout.row for c in rows], [r.row for r in self.require_rollouts()]
        if got != expected:
            raise BatchError(f"verdicts for rows {got}", f"one for each of the rows {expected}", f"step {self.step}")
        self._critiqued = tuple(rows)

    @property
    def has_verdicts(self) -> bool:
        """Whether verdicts were set; a run with W_process = 0 may go without."""
        return self._critiqued is not None

    def require_verdicts(self) -> tuple[CritiquedRollout, ...]:
        """All critiqued rollouts, in row order.

        Raises:
            BatchError: if none were set.
        """
        if self._critiqued is None:
            raise BatchError(
                f"no verdicts in the batch of step {self.step}",
                "verdicts set before they are read",
                change="give capo_lit.CritiqueCallback a judge (--critique.judge), or set --model.credit.w_process 0",
            )
        return self._critiqued

    def take_over(self, other: "StepBatch") -> None:
        """Fill the slots of rollouts and verdicts with those of a batch of the same prompts.

        Raises:
            BatchError: if it has other prompts or another step, or a slot is filled.
        """
        mine, theirs = ((batch.step, [prompt.uid for prompt in batch.prompts]) for batch in (self, other))
        if mine != theirs:
            raise BatchError(
                f"rollouts that were sampled ahead for step {theirs[0]}, prompts {theirs[1][:3]} ...",
                f"those of step {mine[0]}, prompts {mine[1][:3]} ...",
                change="--rollout.ahead 0, or the same data, batch size and group size as before",
            )
        self.set_rollouts(other.require_rollouts(), other.sampling)
        if other.has_verdicts:
            self.set_verdicts(other.require_verdicts())
        self.rollout_seconds, self.critique_seconds = other.rollout_seconds, other.critique_seconds
        self.outcome_counts = other.outcome_counts

    def set_credit(self, credit: TokenTable) -> None:
        """Fill the slot with the table of the step, token rewards and advantages in it.

        Raises:
            BatchError: if the slot is filled.
        """
        if self._credit is not None:
            raise self._filled("credit")
        self._credit = credit

    @property
    def has_credit(self) -> bool:
        """Whether the module has computed token rewards and advantages."""
        return self._credit is not None

    def require_credit(self) -> TokenTable:
        """The table with the token rewards and advantages that the module computed.

        Raises:
            BatchError: if the module has not run yet.
        """
        if self._credit is None:
            raise BatchError(
                f"no token credit in the batch of step {self.step}",
                "CapoModule.training_step to have run",
                change="read the credit in on_train_batch_end, not before",
            )
        return self._credit

    def _filled(self, slot: str) -> BatchError:
        return BatchError(
            f"a second write to the {slot} of step {self.step}",
            "each slot to be written once",
            change=f"remove the second callback that sets {slot}",
        )


def pad_rows(
    rows: Sequence[Sequence[float]], fill: float, dtype: torch.dtype, width: int | None = None
) -> torch.Tensor:
    """Right-pad ragged rows into one tensor; the only place where padding happens.

    Args:
        rows: n sequences of numbers.
        fill: the value of the padding.
        dtype: of the result.
        width: columns of the result; the longest row by default.

    Returns:
        (n, width) tensor on the CPU.

    Raises:
        BatchError: if a row is longer than `width`.
    """
    longest = max((len(row) for row in rows), default=0)
    if width is None:
        width = longest
    if longest > width:
        raise BatchError(f"a row of {longest} entries", f"at most {width}", "pad_rows")
    out = torch.full((len(rows), width), fill, dtype=dtype)
    for index, row in enumerate(rows):
        out[index, : len(row)] = torch.tensor(row, dtype=dtype)
    return out
