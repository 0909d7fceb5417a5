"""What engines in this process share: futures, prompts, versions, and one error per failed request."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from capo_lit.batch.facts import Completion, FinishReason
from capo_lit.core.errors import CapoError, EngineError
from capo_lit.engines.base import Engine, Request, SyncsWeights
from capo_lit.engines.chat import prompt_ids
from capo_lit.engines.pieces import decode_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Generated:
    """What a backend generated for one request: ids with the end token, and the logprob of each."""

    request_id: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True)
class _Flight:
    future: "Future[Completion]"
    prompt_tokens: int
    since: float
    base: bool


def refuse_in_flight(flights: Collection[str], name: str) -> None:
    """Refuse new weights while requests are computed with the old ones.

    Args:
        flights: ids of the requests in flight.
        name: of the engine.

    Raises:
        EngineError: if there are any.
    """
    if flights:
        raise EngineError(
            f"new weights with {len(flights)} requests in flight",
            "none in flight while the weights are replaced",
            name,
            "wait for the completions, or cancel their futures, before the push",
        )


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """The names a push of weights must bring, and those it may bring besides (tied weights, buffers)."""

    required: frozenset[str]
    optional: frozenset[str]

    @classmethod
    def of(cls, model: torch.nn.Module) -> "ParameterNames":
        """The names of a Hugging Face model."""
        required = frozenset(name for name, _ in model.named_parameters())
        return cls(required, frozenset(model.state_dict()) - required)


class PushedWeights:
    """Counts what a push brings.

    Args:
        names: what it should bring.
    """

    def __init__(self, names: ParameterNames) -> None:
        self._names = names
        self._seen: set[str] = set()
        self._strange: list[str] = []

    def known(self, named_tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """Pass on the tensors that the model has, detached."""
        for name, tensor in named_tensors:
            if name in self._names.required:
                self._seen.add(name)
                yield name, tensor.detach()
            elif name not in self._names.optional:
                self._strange.append(name)

    def check(self, where: str) -> None:
        """Raise EngineError if a parameter did not come, or one came that the model does not have."""
        missing = sorted(self._names.required - self._seen)
        if missing or self._strange:
            raise EngineError(
                f"{len(missing)} parameters missing {missing[:3]} and {len(self._strange)} unknown {self._strange[:3]}",
                "the names of the Hugging Face model's named_parameters()",
                where,
            )


class LocalEngine(Engine, SyncsWeights):
    """An engine that moves only in `step`; a backend fills in the methods below.

    Calls may come from several threads, one is served at a time.

    Args:
        name: of the model, for errors.
    """

    stands_still = True

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = RLock()
        self._flights: dict[str, _Flight] = {}
        self._version: int | None = None
        self._started = False
        self._fault: CapoError | None = None

    @property
    def version(self) -> int | None:
        """Policy version of the weights in use; None before the first push."""
        return self._version

    @property
    @abstractmethod
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The model's tokenizer."""

    @abstractmethod
    def _start(self) -> None:
        """Load the model; called once, at first use."""

    @abstractmethod
    def _context(self) -> int:
        """Longest prompt and response together, tokens."""

    @abstractmethod
    def _admit(self, request: Request, ids: tuple[int, ...]) -> None:
        """Queue a request, or raise EngineError."""

    @abstractmethod
    def _written(self, request_id: str) -> int:
        """How many tokens were generated for a request, queued or running."""

    @abstractmethod
    def _abort(self, request_ids: list[str]) -> None:
        """Free the slots of requests, queued or running."""

    @abstractmethod
    def _advance(self) -> Iterable[Generated | tuple[str, EngineError]]:
        """Generate once for what is running; what finished or failed meanwhile."""

    @abstractmethod
    def _parameter_names(self) -> ParameterNames:
        """What a push must bring."""

    @abstractmethod
    def _replace(self, named_tensors: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Write all tensors into the model, and drop what was computed with the old ones."""

    def _idle(self) -> None:
        """Called when the last request in flight is gone."""

    def submit(self, request: Request) -> "Future[Completion]":
        """Queue one request; see Engine.submit.

        Raises:
            EngineError: if the engine itself cannot start.
        """
        future: Future[Completion] = Future()
        with self._lock:
            self._start_once()
            try:
                flight = self._accept(request, future)
            except EngineError as error:
                future.set_exception(error)
                if not self._flights:
                    self._idle()
                return future
            self._flights[request.request_id] = flight
        future.add_done_callback(lambda done: self._drop_cancelled(request.request_id, done))
        return future

    def start(self) -> None:
        """Load the model, if that has not been done; see Engine.start."""
        with self._lock:
            self._start_once()

    def step(self, timeout_s: float = 1.0) -> None:
        """Advance all requests in flight once; what finishes, finishes its future."""
        with self._lock:
            if not self._flights:
                return
            try:
                finished = list(self._advance())
            except Exception as error:  # noqa: BLE001  (whatever a backend raises, no future may be left hanging)
                self._fail_all(error)
                return
            for item in finished:
                self._deliver(item)
            if not self._flights:
                self._idle()

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Replace the weights in place; see SyncsWeights.load_weights.

        Raises:
            EngineError: if requests are in flight, or the names are not the model's. After the latter the engine holds
                a mixture of weights and refuses requests until a complete push.
        """
        with self._pushing(version):
            self._load(named_tensors, version)

    @contextmanager
    def _pushing(self, version: int) -> Iterator[None]:
        """Within it weights are replaced; if that fails, requests are refused until a push succeeds."""
        with self._lock, torch.inference_mode(False):
            self._start_once()
            refuse_in_flight(self._flights, self._name)
            self._fault = EngineError(
                f"weights of which some are version {version} and some {self._version}",
                "one version",
                self._name,
                "push the weights again",
            )
            yield
            self._fault, self._version = None, version

    def _load(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        pushed = PushedWeights(self._parameter_names())
        self._replace(pushed.known(named_tensors))
        pushed.check(f"{self._name}, version {version}")

    def _start_once(self) -> None:
        if not self._started:
            # Lightning validates in inference mode; weights made there could never be replaced outside it.
            with torch.inference_mode(False):
                self._start()
            self._started = True

    def _accept(self, request: Request, future: "Future[Completion]") -> _Flight:
        if self._fault is not None:
            raise EngineError(self._fault.got, self._fault.expected, self._fault.where, self._fault.change)
        where = f"{self._name}, request {request.request_id!r}"
        if request.request_id in self._flights:
            raise EngineError("a request id that is in flight already", "unique request ids", where)
        if request.schema is not None and not self.takes_schema:
            raise EngineError("a JSON schema", "a request without one", where, "take VLLMEngine or HTTPEngine")
        if request.base and not self.takes_base:
            raise EngineError("a request of the weights below adapters", "an engine that holds adapters", where)
        ids = prompt_ids(self.tokenizer, request.prompt, self._name)
        if len(ids) >= self._context():
            raise EngineError(
                f"a prompt of {len(ids)} tokens",
                f"fewer than the engine's {self._context()}",
                where,
                "raise the engine's max_model_len, or drop prompts this long",
            )
        since = perf_counter()
        self._admit(request, ids)
        return _Flight(future, len(ids), since, request.base)

    def _drop_cancelled(self, request_id: str, future: "Future[Completion]") -> None:
        if not future.cancelled():
            return
        with self._lock:
            flight = self._flights.get(request_id)
            # The id may belong to a later request by now.
            if flight is None or flight.future is not future:
                return
            del self._flights[request_id]
            self.aborted_tokens += self._written(request_id)
            self._abort([request_id])
            if not self._flights:
                self._idle()

    def _deliver(self, item: "Generated | tuple[str, EngineError]") -> None:
        request_id = item.request_id if isinstance(item, Generated) else item[0]
        flight = self._flights.pop(request_id, None)
        # A callback of an earlier future may have cancelled this one, or another thread may just have.
        if flight is None or not flight.future.set_running_or_notify_cancel():
            return
        if not isinstance(item, Generated):
            flight.future.set_exception(item[1])
            return
        pieces, special, text = decode_pieces(self.tokenizer, item.ids)
        completion = Completion(
            request_id=request_id,
            ids=item.ids,
            pieces=pieces,
            special=special,
            text=text,
            logprobs=item.logprobs,
            finish_reason=item.finish_reason,
            prompt_tokens=flight.prompt_tokens,
            version=None if flight.base else self._version,
            seconds=perf_counter() - flight.since,
        )
        flight.future.set_result(completion)

    def _fail_all(self, error: Exception) -> None:
        """Free all slots, and hand `error` to every future."""
        flights, self._flights = self._flights, {}
        try:
            self._abort(list(flights))
        finally:
            for request_id, flight in flights.items():
                if flight.future.set_running_or_notify_cancel():
                    where = f"{self._name}, request {request_id!r}"
                    failure = EngineError(f"{type(error).__name__}: {error}", "a step that succeeds", where)
                    failure.__cause__ = error
                    flight.future.set_exception(failure)
