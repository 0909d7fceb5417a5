"""What engines on servers share: requests wait for a slot in a thread of their own, and come back as futures."""

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from threading import Event, Lock
from time import perf_counter
from typing import Any

from capo_lit.batch.facts import Completion
from capo_lit.core.errors import EngineError, check_settings
from capo_lit.engines.base import Engine, Request
from capo_lit.engines.http.protocol import AttemptError, status_error
from capo_lit.engines.http.servers import Server
from capo_lit.engines.http.session import Session

log = logging.getLogger(__name__)


class RemoteEngine(Engine):
    """An engine whose work goes on elsewhere; a child says where, and what a request becomes on its way.

    Args:
        name: for errors, logs and the thread.
        slots: requests in the servers at once, all together; the rest wait here.
        timeout_s: of one attempt at a request, seconds.

    Raises:
        ConfigError: if there is no time at all.
    """

    def __init__(self, name: str, slots: int, timeout_s: float) -> None:
        check_settings([(timeout_s > 0, f"timeout_s {timeout_s}", "a number of seconds > 0", "timeout_s")], name)
        self._name, self._slots, self.timeout_s = name, slots, timeout_s
        self._session: Session | None = None
        self._lock = Lock()
        self._flights: dict[str, Future[Completion]] = {}
        self._news = Event()
        self.failed_attempts: Counter[str] = Counter()
        """Attempts that brought no completion, by cause; most were tried again."""
        self.prompt_tokens = 0
        """Prompt tokens of all finished requests, as the servers counted them."""
        self.cached_tokens = 0
        """Those of them that the servers took from a cache, where they say so."""

    @abstractmethod
    def _connect(self) -> Sequence[Server]:
        """The servers; nothing is sent yet."""

    @abstractmethod
    def _refusal(self, request: Request) -> EngineError | None:
        """Why a request cannot be sent, if it cannot."""

    @abstractmethod
    async def _serve(self, request: Request, session: Session, since: float) -> Completion:
        """One request from its slot to its end."""

    def submit(self, request: Request) -> "Future[Completion]":
        """Send one request, or queue it here while all slots are taken; see Engine.submit."""
        with self._lock:
            refused = self._refusal(request)
            if refused is None and request.request_id in self._flights:
                refused = self._error(request, "a request id that is in flight already", "unique request ids")
            if refused is not None:
                future: Future[Completion] = Future()
                future.set_exception(refused)
                return future
            session = self._open()
            future = session.spawn(self._serve(request, session, perf_counter()))
            self._flights[request.request_id] = future
        future.add_done_callback(lambda done: self._land(request.request_id, done))
        return future

    def step(self, timeout_s: float = 1.0) -> None:
        """Wait until a request has finished since the last step, none is in flight, or the time is over."""
        if self._flights:
            self._news.wait(max(0.0, timeout_s))
        # What finishes before this line is seen by whoever looks at the futures after it.
        self._news.clear()

    def close(self) -> None:
        """Fail what is in flight, close the connections and end the thread; a later request starts anew."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self) -> Session:
        if self._session is None:
            self._session = Session(self._name, self._connect(), self._slots)
        return self._session

    def _land(self, request_id: str, future: "Future[Completion]") -> None:
        # The id may belong to a later request by now.
        if self._flights.get(request_id) is future:
            del self._flights[request_id]
        self._news.set()

    def _error(self, request: Request, got: str, expected: str, change: str = "") -> EngineError:
        return EngineError(got, expected, f"{self._name}, request {request.request_id!r}", change)

    def _count(self, error: AttemptError) -> None:
        if not self.failed_attempts[error.cause]:
            log.warning("%s: %s (the first such failure; further ones are only counted)", self._name, error.said)
        self.failed_attempts[error.cause] += 1


def attempt_error(error: Exception, server: Server) -> AttemptError:
    """What the client's own error says about an attempt.

    Raises:
        Exception: `error` itself, if it is none of the client's.
    """
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        # Some servers quote the key that they refuse.
        said: Any = error.response.content.replace(server.client.api_key.encode(), b"(key)")
        return status_error(error.status_code, error.response.headers, said)
    if isinstance(error, APIConnectionError):
        return AttemptError("connection", f"no connection to {server.url} ({error.__cause__!r})")
    raise error
