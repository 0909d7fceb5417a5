"""Sampling and verifying rollouts, with no Trainer in sight: notebooks and examples/one_step.py call this too."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_args

import torch

from capo_lit.batch.facts import Completion, Prompt, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.core.seeding import derive_seed
from capo_lit.core.steps import Style, split_steps
from capo_lit.engines.base import Adapters, Engine, Request, SyncsWeights, as_completed
from capo_lit.verifier.outcomes import OutcomeSource, outcome_source
from capo_lit.verifier.pool import Outcome, Verifier

_PROBE_TOKENS = 16
EXACT_GAP, LOW_PRECISION_GAP = 1e-3, 0.15


@dataclass(frozen=True, slots=True)
class PlannedRollout:
    """A rollout before it is sampled: the fields are Rollout's, and how to sample it and cut it into steps."""

    row: int
    group: int
    sample: int
    prompt: Prompt
    sampling: Sampling
    seed: int
    style: Style = "paragraph"

    def rollout(self, completion: Completion, outcome: "Future[Outcome]") -> Rollout:
        """The rollout that this plan became; its steps are cut here."""
        greedy = self.sampling.temperature == 0
        spans = tuple(split_steps(completion.text, self.style))
        place, critiques = (self.row, self.group, self.sample), getattr(outcome, "critiques", ())
        return Rollout(*place, self.prompt, completion, outcome.result(), greedy, spans, critiques)


# What is in flight; the future comes last.
_Sampled = tuple[PlannedRollout, "Future[Completion]"]
_Checked = tuple[PlannedRollout, Completion, "Future[Outcome]"]
_Item = TypeVar("_Item", bound=tuple[Any, ...])


def stream_rollouts(
    engine: Engine, verifier: Verifier | OutcomeSource, planned: Sequence[PlannedRollout]
) -> Iterator[Rollout]:
    """Yield each rollout when it has finished and its outcome is known, in no fixed order.

    A source of outcomes that works in this process moves with every step of the engine, and by itself after the last.

    Args:
        engine: what generates.
        verifier: what says whether an answer is right.
        planned: the rollouts to sample; nothing starts before the first is asked for.

    Raises:
        EngineError: if a prompt cannot be sampled.
        CapoError: if the source of outcomes cannot be used.
    """
    source = outcome_source(verifier)
    requests = [Request(str(plan.row), plan.prompt.ids, plan.sampling, plan.seed) for plan in planned]
    sampling: list[_Sampled] = [(plan, engine.submit(request)) for plan, request in zip(planned, requests, strict=True)]
    checking: list[_Checked] = []
    outcomes: list[Outcome] = []
    try:
        while sampling or checking:
            if sampling and not any(future.done() for _, future in sampling):
                engine.step()
            source.step(0.0 if sampling else 1.0)
            for plan, future in _take_done(sampling):
                completion = future.result()
                checking.append((plan, completion, source.submit(plan.prompt, completion.text, plan.seed)))
            # An answer that takes long to judge does not hold up the ones behind it.
            for plan, completion, outcome in _take_done(checking):
                outcomes.append(outcome.result())
                yield plan.rollout(completion, outcome)
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


class Policy(Protocol):
    """What a Sampler needs of the policy that its engine follows; PolicyModule has it."""

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of its forward pass."""

    @property
    def version(self) -> int:
        """Optimizer steps that the weights have seen."""

    def engine_weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Names and tensors, as SyncsWeights.load_weights takes them."""

    def engine_adapters(self) -> Adapters | None:
        """The adapters, as SyncsWeights.load_adapters takes them; None without."""

    def engine_base(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Names and tensors of the weights below the adapters."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[Sequence[int]]) -> list[list[float]]:
        """Logprobs of the responses under the trainer's weights."""


def probe_gap(engine: Engine, policy: Policy, prompt: Prompt) -> float:
    """Check that the engine computes with the policy's weights, on a few sampled tokens.

    A push can fail silently (a packed copy of a weight stays stale), and everything trained after it would be noise.

    Args:
        engine: after its first weight push.
        policy: the trainer's side.
        prompt: any prompt.

    Returns:
        The mean absolute difference of the logprobs, in nats.

    Raises:
        EngineError: if it exceeds 1e-3 where both sides compute in fp32, or 0.15 elsewhere.
    """
    request = Request("probe", prompt.ids, Sampling(max_tokens=_PROBE_TOKENS), seed=0)
    (completion,) = as_completed(engine, [request])
    if completion.logprobs is None:
        raise EngineError(
            f"no logprobs from {type(engine).__name__}", "logprobs of the sampled tokens", change="engine"
        )
    (scored,) = policy.score([prompt], [completion.ids])
    gap = sum(abs(a - b) for a, b in zip(completion.logprobs, scored, strict=True)) / len(scored)
    exact = engine.dtype == torch.float32 and policy.compute_dtype == torch.float32
    limit = EXACT_GAP if exact else LOW_PRECISION_GAP
    if not gap <= limit:
        raise EngineError(
            f"a mean |logprob difference| of {gap:.3g} between engine and trainer on {len(scored)} tokens",
            f"at most {limit:g}: the engine does not compute with the policy's weights",
            f"prompt {prompt.uid}",
            "--rollout.engine (its dtype, or another engine)",
        )
    return gap


class Sampler:
    """What draws rollouts: an engine that follows the policy. Everybody who needs that engine shares this object.

    Args:
        engine: what generates, with the policy's weights.
        style: how a response is cut into steps: paragraph, line or tags.
        seed: of the run; the seed of every rollout derives from it, its prompt, its sample and what it is for.

    Raises:
        ConfigError: if the engine cannot take weights, or the style is unknown.
    """

    def __init__(self, engine: Engine, style: Style = "paragraph", seed: int = 0) -> None:
        if not isinstance(engine, SyncsWeights):
            raise ConfigError(
                f"engine {type(engine).__name__}, whose weights cannot follow the policy's",
                "an engine that syncs weights (VLLMEngine, VLLMServers, HFEngine)",
                change="--rollout.engine",
            )
        if style not in get_args(Style):
            raise ConfigError(f"style {style!r}", f"one of {', '.join(get_args(Style))}", change="--rollout.style")
        self.engine: Engine = engine
        self._weights: SyncsWeights = engine
        self.style, self.seed = style, seed
        self.probe_gap: float | None = None
        self._adapters_alone = self._has_base = False
        self.before_push: Callable[[], None] = lambda: None
        """Called before the engine's weights are replaced: it waits for whoever still samples with the old ones."""

    def follow(self, policy: Policy) -> None:
        """Settle, before the engine starts, whether its pushes are a policy's adapters alone."""
        self._adapters_alone = self._weights.hold_adapters(policy.engine_adapters())
        self._has_base = False

    def push(self, policy: Policy) -> None:
        """Bring the engine to the policy's weights, if it has others."""
        if self.engine.version == policy.version:
            return
        self.before_push()
        adapters = policy.engine_adapters() if self._adapters_alone else None
        if adapters is None:
            self._weights.load_weights(policy.engine_weights(), policy.version)
            return
        kept = self._has_base and self.engine.version is not None  # not dropped meanwhile
        self._weights.load_adapters(adapters, policy.version, None if kept else policy.engine_base())
        self._has_base = True

    def rest(self) -> None:
        """Let the trainer have the engine's memory; the next push brings the engine back."""
        self.engine.rest()

    def sync(self, policy: Policy, prompt: Prompt) -> bool:
        """Push, and at the first time check on a prompt that engine and trainer agree; whether it was the first.

        Raises:
            EngineError: if they do not.
        """
        self.push(policy)
        if self.probe_gap is not None:
            return False
        self.probe_gap = probe_gap(self.engine, policy, prompt)
        return True

    def sample(
        self,
        prompts: Sequence[Prompt],
        count: int,
        sampling: Sampling,
        outcomes: Verifier | OutcomeSource,
        purpose: Sequence[int | str],
        greedy: bool = False,
    ) -> Iterator[Rollout]:
        """Yield `count` rollouts of every prompt, each when it has finished and its outcome is known.

        Args:
            prompts: b prompts.
            count: rollouts of each.
            sampling: how they are drawn.
            outcomes: what says whether they are right.
            purpose: what they are for, such as ("rollout", step); part of their seeds.
            greedy: add one at temperature 0 for every prompt, whose sample is `count`.
        """
        planned = [
            self._plan(group * count + sample, group, sample, prompt, sampling, purpose)
            for group, prompt in enumerate(prompts)
            for sample in range(count)
        ]
        if greedy:
            cold = Sampling(temperature=0.0, max_tokens=sampling.max_tokens)
            planned += [
                PlannedRollout(len(planned) + group, group, count, prompt, cold, 0, self.style)
                for group, prompt in enumerate(prompts)
            ]
        return stream_rollouts(self.engine, outcomes, planned)

    def _plan(
        self, row: int, group: int, sample: int, prompt: Prompt, sampling: Sampling, purpose: Sequence[int | str]
    ) -> PlannedRollout:
        seed = derive_seed(self.seed, *purpose, prompt.uid, sample)
        return PlannedRollout(row, group, sample, prompt, sampling, seed, self.style)
