"""One rollout whose critiques are under way: what was asked, what has come, and whether that settles the vote."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from capo_lit.batch.facts import Completion, Critique, FinishReason, Rollout
from capo_lit.core.votes import VoteRule, settled
from capo_lit.engines.base import Request
from capo_lit.genprm.parse import parse_critique
from capo_lit.genprm.store import StoredReply, StoreKey
from capo_lit.genprm.verdict_boxes import echoes
from capo_lit.genprm.verdict_json import content_steps


@dataclass(eq=False, slots=True)
class Ask:
    """One of the k critiques of a rollout.

    Attributes:
        request: what the engine is sent.
        key: under which the store holds the reply; None without a store.
        future: of the request; None before it was submitted.
        critique: what came of it; None before that is known.
    """

    request: Request
    key: StoreKey | None = None
    future: "Future[Completion] | None" = None
    critique: Critique | None = None

    @property
    def waiting(self) -> bool:
        """Whether it was submitted and has not been collected."""
        return self.future is not None and self.critique is None


@dataclass(eq=False, slots=True)
class Asking:
    """A rollout and its k critiques in whatever state.

    Attributes:
        rollout: that is judged.
        asks: its k critiques, in order; none for a rollout without steps.
        index_base: the number that the judge sees on the first step.
        wave: how many of `asks`, from the first, may be submitted by now.
        flying: keys in flight, shared by all rollouts of one step.
        since: when it came, seconds of time.monotonic.
    """

    rollout: Rollout
    asks: list[Ask]
    index_base: int
    wave: int
    flying: set[str]
    since: float = field(default_factory=time.monotonic)
    _changed: bool = True

    @property
    def has_news(self) -> bool:
        """Whether a critique has come that was not collected."""
        return any(ask.waiting and ask.future is not None and ask.future.done() for ask in self.asks)

    def collect(self) -> Iterator[tuple[Ask, StoredReply]]:
        """Turn futures that are done into critiques, and yield what the judge answered."""
        for ask in self.asks:
            if ask.future is None or ask.critique is not None or not ask.future.done():
                continue
            self._land(ask)
            ask.critique, self._changed = _failure(ask.future), True
            if ask.critique is None:
                completion = ask.future.result()
                counted = completion.completion_tokens
                reply = StoredReply(
                    completion.text,
                    completion.finish_reason,
                    completion.prompt_tokens,
                    len(completion.ids) if counted is None else counted,
                    completion.seconds,
                )
                self.answer(ask, reply, cached=False)
                yield ask, reply

    def answer(self, ask: Ask, reply: StoredReply, cached: bool) -> None:
        """Read a reply."""
        wrong, cause = _read(reply.reply, reply.finish_reason, self)
        tokens = reply.prompt_tokens, reply.completion_tokens
        ask.critique = Critique(reply.reply, wrong, cause, *tokens, seconds=reply.seconds, cached=cached)
        self._changed = True

    def over(self, rule: VoteRule, early_stop: bool) -> bool:
        """Whether every critique has come or, with early_stop, those that have not cannot change a step's error."""
        if not self._changed:
            return False
        self._changed = False
        votes = [ask.critique.wrong for ask in self.asks if ask.critique is not None]
        outstanding = len(self.asks) - len(votes)
        return outstanding == 0 or (early_stop and settled(votes, outstanding, len(self.rollout.spans), rule))

    def widen(self, deadline_s: float) -> None:
        """Let the rest start if all that may start have come, or half of the time has passed without them."""
        if all(ask.critique is not None for ask in self.asks[: self.wave]) or self.is_late(deadline_s / 2):
            self.wave = len(self.asks)

    def startable(self) -> list[Ask]:
        """Critiques that may be submitted now: not those that wait for the same request of another rollout."""
        asks = [ask for ask in self.asks[: self.wave] if ask.future is None and ask.critique is None]
        return [ask for ask in asks if ask.key is None or ask.key.digest not in self.flying]

    def submit(self, ask: Ask, future: "Future[Completion]") -> None:
        """Note that a critique was submitted."""
        ask.future = future
        if ask.key is not None:
            self.flying.add(ask.key.digest)

    def is_late(self, limit_s: float) -> bool:
        """Whether it came `limit_s` seconds ago or earlier."""
        return time.monotonic() - self.since >= limit_s

    def cancel(self) -> None:
        """Free the engine's slots."""
        for ask in self.asks:
            if ask.waiting and ask.future is not None:
                ask.future.cancel()
                self._land(ask)

    def close(self, cause: str) -> list[Critique]:
        """End it.

        Args:
            cause: why what has not come is not waited for: "timeout" abstains, also where it was never submitted;
                "aborted" was called off, and leaves out what was never submitted.

        Returns:
            The critiques, in the order they were asked.
        """
        self.cancel()
        missing = Critique("", None, cause, seconds=time.monotonic() - self.since)
        asks = [ask for ask in self.asks if cause == "timeout" or ask.future is not None or ask.critique is not None]
        return [ask.critique or missing for ask in asks]

    def _land(self, ask: Ask) -> None:
        if ask.key is not None:
            self.flying.discard(ask.key.digest)


def _failure(future: "Future[Completion]") -> Critique | None:
    """The abstention of a request that failed."""
    if future.cancelled():
        return Critique("", None, "error: cancelled by the engine")
    error = future.exception()
    return Critique("", None, f"error: {error}") if error else None


def _read(reply: str, finish_reason: FinishReason, asking: Asking) -> tuple[frozenset[int] | None, str]:
    """The wrong steps that a reply names, or None and the cause."""
    num_steps, base = len(asking.rollout.spans), asking.index_base
    wrong = parse_critique(reply, num_steps, base)
    cut = finish_reason == "length"
    solution = asking.rollout.completion.text
    if cut and wrong is not None and echoes(reply, solution, wrong, lambda box: content_steps(box, num_steps, base)):
        wrong = None
    return wrong, "" if wrong is not None else "length" if cut else "parse"
