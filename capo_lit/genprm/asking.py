"""k critiques of each of many solutions under way: asked of a language model or found in a store, read, and voted."""

import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from capo_lit.batch.facts import ABORTED, Completion, Critique, Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError, check_settings
from capo_lit.core.votes import VoteRule, settled
from capo_lit.engines.base import Engine, Request
from capo_lit.engines.policy import PolicyEngine
from capo_lit.genprm.prompts import Template, load_template
from capo_lit.genprm.render import render_messages
from capo_lit.genprm.store import CritiqueStore, StoredReply, StoreKey, judge_identity

# How critiques are drawn unless a config says otherwise.
SAMPLING = Sampling(temperature=0.8, max_tokens=2048)


@dataclass(eq=False, slots=True)
class PendingCritique:
    """One of the k critiques of a solution.

    Attributes:
        request: what the engine is sent.
        key: under which the store holds the reply; None without a store.
        future: of the request; None before it was submitted.
        result: the critique; None before it has come.
    """

    request: Request
    key: StoreKey | None = None
    future: "Future[Completion] | None" = None
    result: Critique | None = None

    @property
    def waiting(self) -> bool:
        """Whether it was submitted and has not been collected."""
        return self.future is not None and self.result is None

    @property
    def done(self) -> bool:
        """Whether it has come and has not been collected."""
        return self.future is not None and self.result is None and self.future.done()


@dataclass(eq=False, slots=True)
class PendingVote:
    """A solution and its k critiques in whatever state.

    Attributes:
        steps: texts of the steps that are judged; joined they are the solution.
        critiques: of it, in order; none for a solution without steps.
        wave: how many of them, from the first, may be submitted by now.
        in_flight: store keys in flight, shared by all solutions that are judged together.
        since: when it came, seconds of time.monotonic.
    """

    steps: Sequence[str]
    critiques: list[PendingCritique]
    wave: int
    in_flight: set[str]
    since: float = field(default_factory=time.monotonic)
    _changed: bool = True

    @property
    def has_news(self) -> bool:
        """Whether a critique has come that was not collected."""
        return any(one.done for one in self.critiques)

    def come(self) -> Iterator[PendingCritique]:
        """Critiques whose futures are done and that were not collected; collect each before the next one."""
        for one in self.critiques:
            if one.done:
                self._land(one)
                self._changed = True
                yield one

    def over(self, rule: VoteRule, early_stop: bool) -> bool:
        """Whether every critique has come or, with early_stop, those that have not cannot change a step's error."""
        if not self._changed:
            return False
        self._changed = False
        votes = [one.result.wrong for one in self.critiques if one.result is not None]
        outstanding = len(self.critiques) - len(votes)
        return outstanding == 0 or (early_stop and settled(votes, outstanding, len(self.steps), rule))

    def widen(self, deadline_s: float) -> None:
        """Let the rest start if all that may start have come, or half of the time has passed without them."""
        if all(one.result is not None for one in self.critiques[: self.wave]) or self.is_late(deadline_s / 2):
            self.wave = len(self.critiques)

    def startable(self) -> list[PendingCritique]:
        """Critiques that may be submitted now: not those that wait for the same request of another solution."""
        ones = [one for one in self.critiques[: self.wave] if one.future is None and one.result is None]
        return [one for one in ones if one.key is None or one.key.digest not in self.in_flight]

    def submitted(self, one: PendingCritique, future: "Future[Completion]") -> None:
        """Note that a critique was submitted."""
        one.future = future
        if one.key is not None:
            self.in_flight.add(one.key.digest)

    def found(self, one: PendingCritique, critique: Critique) -> None:
        """Note that a critique need not be asked."""
        one.result, self._changed = critique, True

    def is_late(self, limit_s: float) -> bool:
        """Whether it came `limit_s` seconds ago or earlier."""
        return time.monotonic() - self.since >= limit_s

    def cancel(self) -> None:
        """Free the engine's slots."""
        for one in self.critiques:
            if one.waiting and one.future is not None:
                one.future.cancel()
                self._land(one)

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
        asked = [
            one for one in self.critiques if cause == "timeout" or one.future is not None or one.result is not None
        ]
        return [one.result or missing for one in asked]

    def _land(self, one: PendingCritique) -> None:
        if one.key is not None:
            self.in_flight.discard(one.key.digest)


class AsksModel:
    """What a GenPRM and a GenORM share: they show a solution to a language model, k times, and vote on its replies.

    A child says how a reply is read (`_wrong_steps`), and with which seeds a solution is asked about (`_prepare`).

    Args:
        engine: generates the critiques; it may be on another machine, and then works while the policy samples. A
            PolicyEngine is the policy's own engine, or the policy as it was at the start.
        template: text file of the prompt, or the name of a packaged one that fits `reference`; null takes the
            packaged one whose verdict is boxed.
        k: critiques per solution.
        sampling: how critiques are drawn.
        reference: show the judge the reference solution, or the gold answer of a problem that has none.
        deadline_s: seconds after a solution has come at which critiques of it that have not come abstain; what an
            engine in this process stood still while other rollouts were sampled does not count for a GenPRM.

    Raises:
        ConfigError: if the settings contradict each other, the template cannot be used, or the engine cannot keep its
            schema.
    """

    vote: VoteRule = "majority"
    early_stop: bool = True
    first_wave: int | None = None
    store: CritiqueStore | None = None

    def __init__(
        self,
        engine: Engine,
        template: str | Path | None = None,
        k: int = 4,
        sampling: Sampling = SAMPLING,
        reference: bool = False,
        deadline_s: float = 600.0,
    ) -> None:
        checks = (
            (k >= 1, f"k {k}", "at least 1 critique", "k"),
            (deadline_s > 0, f"deadline_s {deadline_s}", "a number of seconds > 0", "deadline_s"),
            (
                k == 1 or sampling.temperature > 0,
                f"k {k} at temperature 0",
                "a temperature > 0, since k critiques at 0 are one critique k times",
                "sampling.temperature, or k 1",
            ),
        )
        check_settings(checks, type(self).__name__)
        self.engine: Engine = engine
        self.template, self.k, self.sampling, self.deadline_s = self._load(template, reference), k, sampling, deadline_s
        self.reference = reference  # the gate then asks its solutions for it
        self._check_schema()

    def _load(self, template: str | Path | None, reference: bool) -> Template:
        """The template of that name or file."""
        return load_template(template, reference)

    @abstractmethod
    def _wrong_steps(self, reply: str, num_steps: int, quotable: str) -> frozenset[int] | None:
        """The wrong steps that a reply names; see `parse_critique`."""

    def _check_schema(self) -> None:
        """Refuse a template whose schema the engine would not keep."""
        if self.template.schema is not None and not self.engine.takes_schema:
            raise ConfigError(
                f"a template with a JSON schema, and {type(self.engine).__name__}, which cannot hold a reply to one",
                "an engine with structured outputs (VLLMEngine, HTTPEngine), or free replies",
                self.template.where,
                "the judge's engine, or its template: boxed, or a file without a line `schema: ...`",
            )

    def _identity(self) -> str:
        """What all replies of this judge depend on, for the store; empty without one."""
        if self.store is None:
            return ""
        engine = self.engine.bound if isinstance(self.engine, PolicyEngine) else self.engine
        identity, schema = judge_identity(engine), self.template.schema
        if schema is None:
            return identity
        return f"{identity} {hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16]}"

    def _prepare(
        self,
        name: str,
        prompt: Prompt,
        steps: Sequence[str],
        nonce_seed: int,
        seeds: Iterable[int],
        identity: str = "",
        in_flight: set[str] | None = None,
    ) -> PendingVote:
        """Write the k requests about a solution; one without steps needs none.

        Args:
            name: beginning of the requests' ids.
            prompt: the problem.
            steps: texts of the solution's steps.
            nonce_seed: of the tags around the steps. One nonce for the k critiques: their prompt is the same text,
                which an engine reads once.
            seeds: of the k critiques.
            identity: of the judge, for the store; see `_identity`.
            in_flight: store keys in flight, shared by all solutions that are judged together.
        """
        template, nonce = self.template, f"{nonce_seed:016x}"[-8:]
        shown = (prompt.reference or prompt.answer) if template.reference else None
        critiques = []
        if steps:
            messages = tuple(render_messages(prompt.problem, steps, shown, nonce, template))
            critiques = [
                PendingCritique(Request(f"{name}-{index}", messages, self.sampling, seed, template.schema))
                for index, seed in enumerate(seeds)
            ]
        if self.store is not None and critiques:
            bare = render_messages(prompt.problem, steps, shown, "", template)
            for one in critiques:
                one.key = StoreKey(identity, bare, self.sampling, one.request.seed, nonce)
        wave = self.k if self.first_wave is None else self.first_wave
        return PendingVote(steps, critiques, wave, set() if in_flight is None else in_flight)

    def _start(self, vote: PendingVote) -> None:
        """Submit what may be submitted by now and the store does not hold."""
        for one in vote.startable():
            if self.store is not None and one.key is not None and (reply := self.store.get(one.key.digest)):
                vote.found(one, self._read(reply, vote, cached=True))
            else:
                vote.submitted(one, self._submit(one.request))

    def _submit(self, request: Request) -> "Future[Completion]":
        try:
            return self.engine.submit(request)
        except EngineError as error:
            # An engine that refuses one request says so in its future; one that refuses all must not end the step.
            return _failed(error)

    def _advance(self, votes: Iterable[PendingVote], timeout_s: float) -> None:
        """Step the engine; if it is broken, what is in flight fails with its error."""
        waiting = [one for vote in votes for one in vote.critiques if one.waiting]
        if all(one.future is None or one.future.done() for one in waiting):
            return
        try:
            self.engine.step(timeout_s)
        except EngineError as error:
            for one in waiting:
                if one.future is not None and (not one.future.done() or one.future.cancelled()):
                    one.future.cancel()
                    one.future = _failed(error)

    def _settled(self, votes: Iterable[PendingVote]) -> Iterator[tuple[PendingVote, list[Critique]]]:
        """Collect what has come, start what is needed, and yield the votes that are settled or too late, closed."""
        for vote in list(votes):
            settled = self._proceed(vote)
            if settled or vote.is_late(self.deadline_s):
                yield vote, vote.close(ABORTED if settled else "timeout")

    def _proceed(self, vote: PendingVote) -> bool:
        """Collect what has come, and start more unless it is enough; whether it is."""
        for one in vote.come():
            self._collect(one, vote)
        if vote.over(self.vote, self.early_stop):
            return True
        vote.widen(self.deadline_s)
        self._start(vote)
        return vote.over(self.vote, self.early_stop)

    def _collect(self, one: PendingCritique, vote: PendingVote) -> None:
        """Turn a future that is done into a critique, and store the reply."""
        assert one.future is not None
        cancelled = one.future.cancelled()
        error = "cancelled by the engine" if cancelled else one.future.exception()
        if error is not None:
            one.result = Critique("", None, f"error: {error}")
            return
        done = one.future.result()
        tokens = len(done.ids) if done.completion_tokens is None else done.completion_tokens
        reply = StoredReply(done.text, done.finish_reason, done.prompt_tokens, tokens, done.seconds)
        one.result = self._read(reply, vote, cached=False)
        if self.store is not None and one.key is not None:
            self.store.put(one.key, one.request, reply)

    def _read(self, reply: StoredReply, vote: PendingVote, cached: bool) -> Critique:
        """A reply as a critique, which names its cause if it abstains."""
        cut = reply.finish_reason == "length"
        # A box of an unfinished reply may be a quotation of the solution's.
        wrong = self._wrong_steps(reply.reply, len(vote.steps), "".join(vote.steps) if cut else "")
        cause = "" if wrong is not None else "length" if cut else "parse"
        tokens = reply.prompt_tokens, reply.completion_tokens
        return Critique(reply.reply, wrong, cause, *tokens, seconds=reply.seconds, cached=cached)


def _failed(error: EngineError) -> "Future[Completion]":
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future
