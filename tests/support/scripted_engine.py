"""An engine without a model, for tests: every reply, delay and failure is written down beforehand.

engine = ScriptedEngine(lambda request: "\\\\boxed{1}")               # the same reply to everything
engine = ScriptedEngine(["first", Reply("second", steps=5), NEVER])   # by order of submission
engine = ScriptedEngine(lambda request: EngineError("...", "..."))    # the future fails
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from capo_lit.batch.facts import Completion, FinishReason
from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Engine, Request, SyncsWeights

EOS = 0
# A step that completes nothing waits this long at most, as a server's would, so that a test's loop does not spin.
_WAIT_S = 0.002


@dataclass(frozen=True)
class Reply:
    """What becomes of one request.

    Attributes:
        text: the response.
        steps: the call of `step` after submission that completes it, from 1; 0 completes it in `submit`.
        finish_reason: "stop" ends it with an end-of-sequence id; "length" does not.
        error: the future fails with this instead.
        never: the future is never completed.
    """

    text: str = ""
    steps: int = 1
    finish_reason: FinishReason = "stop"
    error: Exception | None = None
    never: bool = False


NEVER = Reply(never=True)
Scripted = str | Exception | Reply


class ScriptedEngine(Engine, SyncsWeights):
    """Replies by script.

    Args:
        script: a function from a request to its reply, or the replies in order of submission. A reply is a text, an
            exception that its future will hold, or a Reply.
        step_error: what `step` raises while anything is in flight: an engine that has broken down.

    Attributes:
        requests: all requests ever submitted, in order.
        cancelled: ids of requests whose futures were cancelled before they were done, as `step` found them.
        steps: calls of `step`.
        timeouts: the timeout_s of every call.
        pushed: names and tensors of the last `load_weights`.
    """

    takes_schema = True

    def __init__(
        self, script: Callable[[Request], Scripted] | Sequence[Scripted], step_error: EngineError | None = None
    ) -> None:
        self._script = script
        self._in_flight: list[tuple[Request, Future[Completion], Reply, int]] = []
        self._version: int | None = None
        self.step_error = step_error
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.steps = 0
        self.timeouts: list[float] = []
        self.pushed: dict[str, torch.Tensor] = {}

    @property
    def version(self) -> int | None:
        return self._version

    @property
    def in_flight(self) -> list[str]:
        """Ids of the requests that are neither done nor cancelled."""
        return [request.request_id for request, future, _, _ in self._in_flight if not future.done()]

    def submit(self, request: Request) -> "Future[Completion]":
        assert request.request_id not in self.in_flight, f"{request.request_id} is in flight already"
        scripted = self._script(request) if callable(self._script) else self._script[len(self.requests)]
        reply = _as_reply(scripted)
        self.requests.append(request)
        future: Future[Completion] = Future()
        self._in_flight.append((request, future, reply, self.steps + reply.steps))
        self._complete()
        return future

    def step(self, timeout_s: float = 1.0) -> None:
        self.steps += 1
        self.timeouts.append(timeout_s)
        if self.step_error is not None and self.in_flight:
            raise self.step_error
        if not self._complete():
            time.sleep(min(timeout_s, _WAIT_S))

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        if self.in_flight:
            raise EngineError(f"new weights while {self.in_flight} are in flight", "an idle engine")
        self.pushed = {name: tensor.detach().clone() for name, tensor in named_tensors}
        self._version = version

    def _complete(self) -> int:
        """Finish what is due; returns how many."""
        finished, waiting = 0, []
        for item in self._in_flight:
            request, future, reply, due = item
            if future.cancelled():
                self.cancelled.append(request.request_id)
            elif reply.never or due > self.steps:
                waiting.append(item)
            else:
                finished += 1
                if reply.error is not None:
                    future.set_exception(reply.error)
                else:
                    future.set_result(completion(reply.text, request.request_id, reply.finish_reason, self._version))
        self._in_flight = waiting
        return finished


def _as_reply(scripted: Scripted) -> Reply:
    if isinstance(scripted, Exception):
        return Reply(error=scripted)
    return Reply(scripted) if isinstance(scripted, str) else scripted


def completion(
    text: str, request_id: str = "request", finish_reason: FinishReason = "stop", version: int | None = None
) -> Completion:
    """A Completion of one id per word (logprob -1 each, prompt of 7 tokens, 0.5 s), and an EOS id if it stopped."""
    pieces = re.findall(r"\s*\S+|\s+", text)
    stopped = finish_reason == "stop"
    ids = [*range(1, len(pieces) + 1), *([EOS] if stopped else [])]
    return Completion(
        request_id=request_id,
        ids=tuple(ids),
        pieces=(*pieces, *([""] if stopped else [])),
        special=(*(False for _ in pieces), *([True] if stopped else [])),
        text=text,
        logprobs=(-1.0,) * len(ids),
        finish_reason=finish_reason,
        prompt_tokens=7,
        version=version,
        seconds=0.5,
    )
