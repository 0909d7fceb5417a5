"""The facts that one training step gathers: prompts, completions, rollouts, critiques, and the table made of them.

Text and ids stay ragged tuples; step.py holds their carrier.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch

from capo_lit.core.steps import split_steps
from capo_lit.core.votes import Verdict

FinishReason = Literal["stop", "length"]
Span = tuple[int, int]

ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem, ready to be sampled.

    Attributes:
        uid: stable name of the problem (file and row, or generator and seed); part of every derived seed.
        problem: the problem's bare text, as the judge sees it.
        ids: token ids of the rendered prompt, in the policy's vocabulary.
        answer: the gold answer that the verifier compares with.
        reference: a full reference solution, if the source has one.
        answers: gold answers any one of which is right, where there are several; the verifier then compares with
            these, and `answer` shows them all to a reader.
    """

    uid: str
    problem: str
    ids: tuple[int, ...]
    answer: str
    reference: str | None = None
    answers: tuple[str, ...] = ()


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
        completion_tokens: how many tokens were generated, where the ids are not known (a server); None where they are,
            or where the server does not say.
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
    completion_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled solution of a prompt, with its outcome.

    Attributes:
        row: position in the batch, in [0, n).
        group: position of its prompt in the batch, in [0, b).
        sample: index among the prompt's samples, in [0, g).
        outcome: 1.0 right, 0.0 wrong, None unknown (verifier timeout or crash).
        greedy: decoded at temperature 0 (validation only).
        spans: its steps, as character spans of completion.text. They are cut here, once, and everybody reads them
            here: by default the text's paragraphs.
        outcome_critiques: what a model said of the whole solution, where one was asked for the outcome; `wrong` is {0}
            if it called the answer wrong.
    """

    row: int
    group: int
    sample: int
    prompt: Prompt
    completion: Completion
    outcome: float | None
    greedy: bool = False
    spans: tuple[Span, ...] = None  # type: ignore[assignment]  # a tuple from __post_init__ on
    outcome_critiques: "tuple[Critique, ...]" = ()

    def __post_init__(self) -> None:
        if self.spans is None:
            object.__setattr__(self, "spans", tuple(split_steps(self.completion.text)))

    @property
    def outcome_or_nan(self) -> float:
        """The outcome as tensors hold it: NaN is unknown."""
        return float("nan") if self.outcome is None else self.outcome


@dataclass(frozen=True, slots=True)
class Critique:
    """One reply of the judge.

    Attributes:
        reply: the judge's own turn, verbatim; "" if it failed.
        wrong: 0-based wrong steps, or None if the critique abstains.
        cause: why it abstains ("parse", "timeout", "error: ..."); "aborted" if the vote was settled without it, which
            is no abstention; "" otherwise.
        prompt_tokens: tokens the judge read.
        completion_tokens: tokens the judge wrote.
        seconds: from submission to the reply.
        cached: it came from a critique store; the judge was not asked now.
    """

    reply: str
    wrong: frozenset[int] | None
    cause: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cached: bool = False

    @property
    def aborted(self) -> bool:
        """Whether it was called off because the vote was settled; it neither voted nor abstained."""
        return self.cause == ABORTED


@dataclass(frozen=True, slots=True)
class CritiquedRollout:
    """A rollout with its critiques and the verdict voted from them.

    Attributes:
        rollout: whose steps were judged.
        critiques: those that were asked, in order; fewer than k if the vote was settled before all were.
        verdict: tally's result over them, aborted ones left out.
    """

    rollout: Rollout
    critiques: tuple[Critique, ...]
    verdict: Verdict

    @property
    def spans(self) -> tuple[Span, ...]:
        """The rollout's steps."""
        return self.rollout.spans


@dataclass(frozen=True)
class TokenTable:
    """What training knows of a batch: one row per rollout, one column per response token, right-padded.

    Tensors are on the CPU, but for those of `take`. What is not known yet is 0: `assign_credit` fills token_rewards
    and advantages, the update fills logprobs and entropy.

    Attributes:
        rollouts: n rollouts in row order.
        mask: (n, t) bool; True on generated tokens of rollouts with a known outcome.
        outcome: (n,) float32; NaN if unknown.
        step_of_token: (n, t) int64; 0-based step, -1 on special tokens and padding.
        step_error: (n, t) float32; 0 where a token belongs to no step or nobody judged.
        engine_logprobs: (n, t) float32, or None if the engine gives none.
        token_rewards: (n, t) float32; 0 outside the mask.
        advantages: (n, t) float32; 0 outside the mask.
        logprobs: (n, t) float32, the trainer's before the update.
        entropy: (n, t) float32, of the policy before the update, nats.
        temperature: that the rollouts were sampled at.
        max_tokens: longest response that could have been sampled, or None if not known.
    """

    rollouts: tuple[Rollout, ...]
    mask: torch.Tensor
    outcome: torch.Tensor
    step_of_token: torch.Tensor
    step_error: torch.Tensor
    engine_logprobs: torch.Tensor | None
    token_rewards: torch.Tensor
    advantages: torch.Tensor
    logprobs: torch.Tensor
    entropy: torch.Tensor
    temperature: float = 1.0
    max_tokens: int | None = None

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Token ids of every row's prompt."""
        return [rollout.prompt.ids for rollout in self.rollouts]

    @property
    def responses(self) -> list[tuple[int, ...]]:
        """Token ids of every row's response."""
        return [rollout.completion.ids for rollout in self.rollouts]

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and response together, by row."""
        return [len(prompt) + len(response) for prompt, response in zip(self.prompts, self.responses, strict=True)]

    @property
    def group(self) -> torch.Tensor:
        """(n,) int64; which prompt of the batch every row answers."""
        return torch.tensor([rollout.group for rollout in self.rollouts])

    def take(self, rows: Sequence[int], device: torch.device) -> Self:
        """Some rows as a table of their own on a device, as wide as the longest response among them."""
        rows, rollouts = list(rows), tuple(self.rollouts[row] for row in rows)
        width = max(len(rollout.completion.ids) for rollout in rollouts)
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}
        taken: dict[str, Any] = {
            name: (value[rows, :width] if value.ndim > 1 else value[rows]).to(device) for name, value in tensors.items()
        }
        return replace(self, rollouts=rollouts, **taken)

    def put(self, rows: Sequence[int], **columns: torch.Tensor) -> None:
        """Write columns of some rows, (r, up to t) each, in place."""
        for name, values in columns.items():
            getattr(self, name)[list(rows), : values.shape[1]] = values.detach().float().cpu()
