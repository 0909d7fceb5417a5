"""A judge that is the policy: its very engine, or what keeps the weights training started from."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Literal, get_args

import torch

from capo_lit.batch.facts import Completion
from capo_lit.core.errors import ConfigError
from capo_lit.engines.base import Engine, Request
from capo_lit.engines.vllm import VLLMEngine

Weights = Literal["current", "initial"]


class _Bound(Engine):
    """An engine whose requests another one serves, which counts their tokens with its other requests'."""

    @property
    @abstractmethod
    def bound(self) -> Engine:
        """The engine that does the work."""

    @property
    def prompt_tokens(self) -> int:  # type: ignore[override]
        """As the bound engine counts, and so below."""
        return self.bound.prompt_tokens

    @property
    def cached_tokens(self) -> int:  # type: ignore[override]
        """As the bound engine counts."""
        return self.bound.cached_tokens

    @property
    def aborted_tokens(self) -> int:  # type: ignore[override]
        """As the bound engine counts."""
        return self.bound.aborted_tokens

    @property
    def failed_attempts(self) -> Mapping[str, int]:  # type: ignore[override]
        """As the bound engine counts."""
        return self.bound.failed_attempts

    @property
    def dtype(self) -> torch.dtype | None:
        """Compute dtype of the weights."""
        return self.bound.dtype

    def submit(self, request: Request) -> "Future[Completion]":
        """Queue one request in the bound engine; see Engine.submit."""
        return self.bound.submit(request)

    def step(self, timeout_s: float = 1.0) -> None:
        """Advance whatever is in flight in the bound engine, rollouts included."""
        self.bound.step(timeout_s)


class PolicyEngine(_Bound):
    """Stands where a judge's engine does, and hands its requests to the policy.

    Which policy that is, is known when a run is set up: the callbacks bind it then. With "current" the judge is the
    rollouts' own engine: critiques take slots among the rollouts, and the judge learns as the policy does. With
    "initial" it is what training starts from, the same judge throughout the run and after a resume: the rollouts'
    engine without the policy's adapters, where it holds those, else an engine of its own into which no weights are
    ever pushed.

    Args:
        weights: "current" or "initial".
        engine: for "initial", class and settings of an engine of its own, without the model; null takes the rollouts'
            engine if that holds adapters, else VLLMEngine's defaults.
    """

    takes_schema = True

    def __init__(self, weights: Weights = "current", engine: Callable[[str], Engine] | None = None) -> None:
        if weights not in get_args(Weights):
            raise ConfigError(f"weights {weights!r}", "current or initial", "PolicyEngine", "weights")
        if weights == "current" and engine is not None:
            raise ConfigError(
                "an engine beside weights current", "none: it is that of the rollouts", "PolicyEngine", "engine"
            )
        self.weights = weights
        self._build = engine
        self._bound: Engine | None = None
        self._policy = ""

    @property
    def bound(self) -> Engine:
        """The engine that does the work.

        Raises:
            ConfigError: outside a run, where there is no policy.
        """
        if self._bound is None:
            raise ConfigError(
                "a PolicyEngine without a policy",
                "a training or evaluation run, whose callbacks bind it",
                change="the judge's engine: name its model (VLLMEngine, HFEngine) or server (HTTPEngine)",
            )
        return self._bound

    @property
    def stands_still(self) -> bool:  # type: ignore[override]
        """The rollouts' sampling steps their own engine too."""
        return self.weights == "initial" and self.bound.stands_still

    @property
    def version(self) -> int | None:
        """Policy version of the weights in use; None for the initial ones, which never sync."""
        return self.bound.version

    def bind(self, engine: Engine, policy: str) -> None:
        """Say which policy this is; called at every setup of a run.

        Args:
            engine: of the rollouts.
            policy: the directory or hub id that training starts from.

        Raises:
            ConfigError: if critiques could not be generated.
        """
        if self.weights == "current":
            self._bound = engine
        elif engine.takes_base and self._build is None:
            self.close()
            self._bound = _BaseRows(engine, policy)
        elif self._bound is None or isinstance(self._bound, _BaseRows) or self._policy != policy:
            self.close()
            self._bound = (self._build or VLLMEngine)(policy)
        self._policy, self.takes_schema = policy, self.bound.takes_schema
        _check(self.bound, self.weights)

    def start(self) -> None:
        """Load the initial policy; that of the rollouts is not this one's to start."""
        if self.weights == "initial":
            self.bound.start()

    def close(self) -> None:
        """Give back the initial policy's engine; that of the rollouts is not this one's to close."""
        if self.weights == "initial" and self._bound is not None:
            self._bound.close()
            self._bound = None


class _BaseRows(_Bound):
    """The weights below an engine's adapters, as an engine of their own: a policy as training found it.

    Args:
        engine: that takes requests of its base.
        model: directory or hub id that the base is of.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine, self.model = engine, model
        self.precision, self.takes_schema = engine.precision, engine.takes_schema

    @property
    def bound(self) -> Engine:
        """The engine that takes them."""
        return self._engine

    @property
    def tokenizer(self) -> Any:
        """The engine's."""
        return getattr(self._engine, "tokenizer", None)

    def submit(self, request: Request) -> "Future[Completion]":
        """Queue one request of the base; see Engine.submit."""
        return self._engine.submit(replace(request, base=True))


def bind_policy(judge: object, engine: Engine, policy: str) -> None:
    """Bind the PolicyEngine of a judge or a source of outcomes, where it has one.

    Args:
        judge: whatever may have an attribute `engine`, or None.
        engine: of the rollouts.
        policy: the directory or hub id that training starts from.

    Raises:
        ConfigError: if that policy cannot judge.
    """
    own = getattr(judge, "engine", None)
    if isinstance(own, PolicyEngine):
        own.bind(engine, policy)


def start_engines(*owners: object) -> None:
    """Start the engines of judges, samplers and sources of outcomes, in this order.

    Engines in data-parallel processes agree on their caches when they start, so all processes must start them
    together; one that waited for its first request would wait for processes that never ask.

    Args:
        owners: whatever may have an attribute `engine`, or None.
    """
    for owner in owners:
        engine = getattr(owner, "engine", None)
        if isinstance(engine, Engine):
            engine.start()


def _check(engine: Engine, weights: Weights) -> None:
    """Refuse what would make every critique fail."""
    change = "the judge's engine: one with a model of its own"
    tokenizer = getattr(engine, "tokenizer", None)  # of an engine that renders messages itself
    if tokenizer is not None and not tokenizer.chat_template:
        got = "a judge on a policy whose tokenizer has no chat template"
        raise ConfigError(got, "one that renders chat messages", f"PolicyEngine, weights {weights}", change)
