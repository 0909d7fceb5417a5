"""What every engine does: take requests, advance, hand back completions as they finish."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from capo_lit.batch.facts import Completion
from capo_lit.batch.sampling import Sampling

__all__ = ["Adapters", "Engine", "Message", "Request", "Sampling", "SyncsWeights", "as_completed"]

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to generate.

    Attributes:
        request_id: unique among the requests in flight on one engine.
        prompt: token ids of the engine's own vocabulary, or chat messages that the engine renders.
        sampling: how tokens are drawn.
        seed: of this request alone; two requests with one seed and prompt give one text.
        schema: JSON schema that the text follows, unless it is cut; None leaves it free.
        stop: strings that end the response, beside the end token; an engine in this process leaves the one that was
            found in the text, a server takes it out.
        base: ask the weights below the engine's adapters, and not the policy; for engines with `takes_base`.
    """

    request_id: str
    prompt: tuple[int, ...] | tuple[Message, ...]
    sampling: Sampling
    seed: int
    schema: Mapping[str, Any] | None = None
    stop: tuple[str, ...] = ()
    base: bool = False


@dataclass(frozen=True, slots=True)
class Adapters:
    """Low-rank adapters of a policy: a layer with weights W computes (W + scale B A) x.

    Attributes:
        rank: of B A.
        scale: what B A is multiplied with.
        pairs: A, (rank, inputs), and B, (outputs, rank), by the layer's name in the Hugging Face model.
    """

    rank: int
    scale: float
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def layers(self) -> list[str]:
        """The layers that carry them, each once by the last part of its name, such as q_proj."""
        return sorted({name.rpartition(".")[2] for name in self.pairs})


class Engine(ABC):
    """Whatever generates text: vLLM in process, transformers, or a server.

    Work is submitted, then the engine is stepped until the futures are done. An engine in this process moves only in
    `step`; a server moves by itself and `step` waits for it. A future that is cancelled before it is done frees its
    slot in the engine.

    Attributes:
        precision: dtype that the weights were asked to have, "auto" for the checkpoint's; "" where that is not the
            engine's to say (a server's). Unlike `dtype` it is the same before and after the start.
        stands_still: whether its work moves only in `step`; a server's goes on meanwhile.
        takes_schema: whether it can hold a text to a request's schema; an engine that cannot refuses such requests.
        takes_base: whether it takes requests of the weights below the policy's adapters.
        prompt_tokens: of all finished requests, where the engine counts them.
        cached_tokens: those of them that came from a prefix cache, as far as the engine knows.
        aborted_tokens: generated for requests that were cancelled before they were done; a server does not tell.
        failed_attempts: attempts at requests that brought no completion, by cause; an engine that tries again (a
            server's) counts every one.
        log_folder: where an engine that starts processes of its own writes their logs; None is a temporary folder.
    """

    precision: str = ""
    stands_still: bool = False
    takes_schema: bool = False
    takes_base: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    aborted_tokens: int = 0
    failed_attempts: Mapping[str, int] = MappingProxyType({})
    log_folder: Path | None = None

    @property
    def version(self) -> int | None:
        """Policy version of the weights in use; None before the first push and for engines that never sync."""
        return None

    @property
    def dtype(self) -> torch.dtype | None:
        """Compute dtype of the weights, or None where it is not known (a server)."""
        return None

    @abstractmethod
    def submit(self, request: Request) -> "Future[Completion]":
        """Queue one request.

        Returns:
            A future that `step` completes. It holds an EngineError if this request cannot be generated.
        """

    @abstractmethod
    def step(self, timeout_s: float = 1.0) -> None:
        """Advance the work in flight once, or wait up to `timeout_s` for a server to do so."""

    def start(self) -> None:  # noqa: B027  (optional hook: a server runs already)
        """Load the model now, and not at first use: where processes must do so together, each calls this."""

    def rest(self) -> None:  # noqa: B027  (optional hook: most engines share no memory with a trainer)
        """Give memory back until the next use. Weights that were pushed may be dropped: `version` is then None."""

    def close(self) -> None:  # noqa: B027  (optional hook: most engines own nothing that outlives them)
        """Give back memory and processes."""


class SyncsWeights(ABC):
    """An engine whose weights follow the policy's."""

    @abstractmethod
    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights in place, and drop every cache that was computed with the old ones.

        Args:
            named_tensors: names and tensors as in the Hugging Face model's named_parameters().
            version: optimizer steps these weights have seen; stamped on what is generated from now on.

        Raises:
            EngineError: if requests are in flight.
        """

    def hold_adapters(self, adapters: Adapters | None) -> bool:
        """Ask, before the engine starts, whether pushes may bring a policy's adapters alone, by `load_adapters`.

        Args:
            adapters: of the policy, as large as they will be; None for one without.

        Returns:
            Whether they may. An engine that cannot hold them gets merged weights, by `load_weights`.
        """
        return False

    def load_adapters(
        self, adapters: Adapters, version: int, base: Iterable[tuple[str, torch.Tensor]] | None = None
    ) -> None:
        """Replace the policy's adapters; for engines that hold them.

        Args:
            adapters: of the policy.
            version: optimizer steps that they have seen.
            base: names and tensors of the weights below, as for `load_weights`; with the first push, and after weights
                were dropped. None leaves those that the last such push brought.

        Raises:
            EngineError: if requests are in flight, or there is no base.
        """
        raise NotImplementedError(f"{type(self).__name__} holds no adapters")


def as_completed(engine: Engine, requests: Iterable[Request]) -> Iterator[Completion]:
    """Submit all requests and yield each completion when it finishes.

    Closing the iterator early cancels what is still in flight.

    Raises:
        EngineError: of the first request that failed.
    """
    pending = [engine.submit(request) for request in requests]
    try:
        while pending:
            done = [future for future in pending if future.done()]
            if not done:
                engine.step()
                continue
            pending = [future for future in pending if not future.done()]
            for future in done:
                yield future.result()
    finally:
        for future in pending:
            future.cancel()
