"""What travels through one training step: prompts, completions, rollouts, critiques, and the carrier StepBatch.

Text and ids stay ragged tuples until the module pads them once, with `pad_rows`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from capo_lit.core.votes import Verdict
from capo_lit.errors import BatchError

FinishReason = Literal["stop", "length"]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem, ready to be sampled.

    Attributes:
        uid: stable name of the problem (file and row, or generator and seed); part of every derived seed.
        problem: the problem's bare text, as the judge sees it.
        ids: token ids of the rendered prompt, in the policy's vocabulary.
        answer: the gold answer that the verifier compares with.
        reference: a full reference solution, if the source has one.
    """

    uid: str
    problem: str
    ids: tuple[int, ...]
    answer: str
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine generated for one request.

    Attributes:
        request_id: the request it answers.
        ids: generated token ids, the end-of-sequence token included.
        pieces: decoded text of every id; special tokens are "", and "".join(pieces) == text.
        special: whether the id at that place is a special token.
        text: the decoded response.
        logprobs: natural-log probability of every id under the sampling distribution; None if the engine has none.
        finish_reason: "stop" (end token or stop string) or "length" (cut at max_tokens).
        prompt_tokens: length of the prompt, tokens.
        version: policy version of the weights that generated it; None for an engine that never syncs.
        seconds: from submission to the last token.
    """

    request_id: str
    ids: tuple[int, ...]
    pieces: tuple[str, ...]
    special: tuple[bool, ...]
    text: str
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    prompt_tokens: int
    version: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled solution of a prompt, with its outcome.

    Attributes:
        row: position in the batch, in [0, n).
        group: position of its prompt in the batch, in [0, b).
        sample: index among the prompt's samples, in [0, g).
        outcome: 1.0 right, 0.0 wrong, None unknown (verifier timeout or crash).
        greedy: decoded at temperature 0 (validation only).
    """

    row: int
    group: int
    sample: int
    prompt: Prompt
    completion: Completion
    outcome: float | None
    greedy: bool = False


@dataclass(frozen=True, slots=True)
class Critique:
    """One reply of the judge.

    Attributes:
        reply: the judge's own turn, verbatim; "" if it failed.
        wrong: 0-based wrong steps, or None if the critique abstains.
        cause: why it abstains ("parse", "timeout", "error: ..."); "" otherwise.
        prompt_tokens: tokens the judge read.
        completion_tokens: tokens the judge wrote.
        seconds: from submission to the reply.
    """

    reply: str
    wrong: frozenset[int] | None
    cause: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CritiquedRollout:
    """A rollout with its steps, its critiques and the verdict voted from them.

    Attributes:
        spans: character spans of the steps in rollout.completion.text, as split_steps gave them.
        critiques: the k critiques, in the order they were asked.
        verdict: tally's result over them.
    """

    rollout: Rollout
    spans: tuple[Span, ...]
    critiques: tuple[Critique, ...]
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class TokenCredit:
    """What the module made of a batch: one row per rollout, right-padded; see `mask`.

    Attributes:
        token_rewards: (n, t) float32.
        advantages: (n, t) float32.
        mask: (n, t) bool; True on generated tokens of rollouts with a known outcome.
        step_of_token: (n, t) int64; 0-based step, -1 for special tokens and padding.
        logprobs: (n, t) float32, the trainer's logprobs before the update.
    """

    token_rewards: torch.Tensor
    advantages: torch.Tensor
    mask: torch.Tensor
    step_of_token: torch.Tensor
    logprobs: torch.Tensor


class StepBatch:
    """The carrier Lightning hands to every hook of one step: slots that are written once.

    A plain class on purpose. Lightning passes the same object to callbacks and module, so it can be filled but not
    replaced; its half-precision input cast rebuilds dataclasses and dicts, and leaves this alone.

    Args:
        prompts: the b prompts of this step.
        step: rollout step of the run, from 0; goes on counting over epochs and resumed runs.
    """

    def __init__(self, prompts: Sequence[Prompt], step: int) -> None:
        self.prompts = tuple(prompts)
        self.step = step
        self._source: Iterator[Rollout] | None = None
        self._rollouts: list[Rollout] = []
        self._critiqued: tuple[CritiquedRollout, ...] | None = None
        self._credit: TokenCredit | None = None

    def __len__(self) -> int:
        return len(self.prompts)

    def set_rollouts(self, rollouts: Iterable[Rollout]) -> None:
        """Fill the slot with rollouts, or with an iterator that yields each one when it finishes.

        Raises:
            BatchError: if the slot is filled.
        """
        if self._source is not None:
            raise self._filled("rollouts")
        self._source = iter(rollouts)

    def stream_rollouts(self) -> Iterator[Rollout]:
        """Yield the rollouts in the order they finish; what one reader has drawn, the next reader sees again.

        Raises:
            BatchError: if no rollouts were set.
        """
        if self._source is None:
            raise BatchError(
                f"no rollouts in the batch of step {self.step}",
                "rollouts set before they are read",
                change="add capo_lit.callbacks.rollout.RolloutCallback to the Trainer's callbacks, before all others",
            )
        yield from self._rollouts
        for rollout in self._source:
            self._rollouts.append(rollout)
            yield rollout

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
                change="give capo_lit.callbacks.critique.CritiqueCallback a judge (--critique.judge), "
                "or set --model.credit.w_process 0",
            )
        return self._critiqued

    def set_credit(self, credit: TokenCredit) -> None:
        """Fill the slot with the token rewards and advantages of the step.

        Raises:
            BatchError: if the slot is filled.
        """
        if self._credit is not None:
            raise self._filled("credit")
        self._credit = credit

    def require_credit(self) -> TokenCredit:
        """The token rewards and advantages that the module computed.

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
