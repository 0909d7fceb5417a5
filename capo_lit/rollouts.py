"""Sampling and verifying rollouts, with no Trainer in sight: notebooks call this too."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from capo_lit.batch import Completion, Prompt, Rollout
from capo_lit.engines.base import Engine, Request, Sampling, as_completed
from capo_lit.errors import EngineError
from capo_lit.outcomes import OutcomeSource, outcome_source
from capo_lit.verifier import Outcome, Verifier

_PROBE_TOKENS = 16
_EXACT_GAP, _LOW_PRECISION_GAP = 1e-3, 0.15


@dataclass(frozen=True, slots=True)
class Draw:
    """One rollout to be sampled; the fields are Rollout's, and how to sample it."""

    row: int
    group: int
    sample: int
    prompt: Prompt
    sampling: Sampling
    seed: int

    def rollout(self, completion: Completion, outcome: float | None) -> Rollout:
        """The rollout that this draw became."""
        greedy = self.sampling.temperature == 0
        return Rollout(self.row, self.group, self.sample, self.prompt, completion, outcome, greedy)


# What is in flight; the future comes last.
_Sampled = tuple[Draw, "Future[Completion]"]
_Checked = tuple[Draw, Completion, "Future[Outcome]"]
_Item = TypeVar("_Item", bound=tuple[Any, ...])


def stream_rollouts(engine: Engine, verifier: Verifier | OutcomeSource, draws: Sequence[Draw]) -> Iterator[Rollout]:
    """Yield each rollout when it has finished and its outcome is known, in no fixed order.

    A source of outcomes that works in this process moves with every step of the engine, and by itself after the last.

    Args:
        engine: what generates.
        verifier: what says whether an answer is right.
        draws: the rollouts to sample; nothing starts before the first is asked for.

    Raises:
        EngineError: if a prompt cannot be sampled.
        CapoError: if the source of outcomes cannot be used.
    """
    source = outcome_source(verifier)
    requests = [Request(str(draw.row), draw.prompt.ids, draw.sampling, draw.seed) for draw in draws]
    sampling: list[_Sampled] = [(draw, engine.submit(request)) for draw, request in zip(draws, requests, strict=True)]
    checking: list[_Checked] = []
    outcomes: list[Outcome] = []
    try:
        while sampling or checking:
            if sampling and not any(future.done() for _, future in sampling):
                engine.step()
            source.step(0.0 if sampling else 1.0)
            for draw, future in _take_done(sampling):
                completion = future.result()
                checking.append((draw, completion, source.submit(draw.prompt, completion.text, draw.seed)))
            # An answer that takes long to judge does not hold up the ones behind it.
            for draw, completion, verdict in _take_done(checking):
                outcomes.append(verdict.result())
                yield draw.rollout(completion, outcomes[-1])
    finally:
        for _, sampled in sampling:
            sampled.cancel()
        for *_, checked in checking:
            checked.cancel()
    source.check(outcomes)


def _take_done(items: list[_Item]) -> list[_Item]:
    """The items whose future is done, taken out of the list."""
    done = [item for item in items if item[-1].done()]
    items[:] = [item for item in items if item not in done]
    return done


class Scores(Protocol):
    """What the probe needs of a policy; PolicyModule has it."""

    dtype: torch.dtype

    def score(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprobs of the responses under the trainer's weights."""


def probe_gap(engine: Engine, policy: Scores, prompt: Prompt, limit: float | None = None) -> float:
    """Check that the engine computes with the policy's weights, on a few sampled tokens.

    A push can fail silently (a packed copy of a weight stays stale), and everything trained after it would be noise.

    Args:
        engine: after its first weight push.
        policy: the trainer's side.
        prompt: any prompt.
        limit: largest mean |difference| of logprobs; None takes 1e-3 where both sides compute in fp32, else 0.15.

    Returns:
        The mean absolute difference of the logprobs, in nats.

    Raises:
        EngineError: if it exceeds the limit.
    """
    request = Request("probe", prompt.ids, Sampling(max_tokens=_PROBE_TOKENS), seed=0)
    (completion,) = as_completed(engine, [request])
    if completion.logprobs is None:
        raise EngineError(
            f"no logprobs from {type(engine).__name__}", "logprobs of the sampled tokens", change="engine"
        )
    (scored,) = policy.score([prompt], [completion.ids])
    gap = sum(abs(a - b) for a, b in zip(completion.logprobs, scored, strict=True)) / len(scored)
    if limit is None:
        exact = engine.dtype == torch.float32 and policy.dtype == torch.float32
        limit = _EXACT_GAP if exact else _LOW_PRECISION_GAP
    if not gap <= limit:
        raise EngineError(
            f"a mean |logprob difference| of {gap:.3g} between engine and trainer on {len(scored)} tokens",
            f"at most {limit:g}: the engine does not compute with the policy's weights",
            f"prompt {prompt.uid}",
            "--rollout.engine (its dtype, or another engine); --rollout.max_probe_gap if this is expected",
        )
    return gap
