"""The GenPRM: k critiques of every rollout from a language model, parsed and voted."""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path

from capo_lit.batch.facts import ABORTED, Completion, CritiquedRollout, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import EngineError
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import VoteRule
from capo_lit.engines.base import Engine, Request
from capo_lit.engines.policy import PolicyEngine
from capo_lit.genprm.asking import Ask, Asking
from capo_lit.genprm.base import StepJudge, critiqued, step_texts
from capo_lit.genprm.judge_settings import check_schema, check_votes, check_wave
from capo_lit.genprm.prompts import load_template
from capo_lit.genprm.render import render_messages
from capo_lit.genprm.store import CritiqueStore, StoreKey, judge_identity

_SAMPLING = Sampling(temperature=0.8, max_tokens=2048)
# How long one wait may last before deadlines are looked at again, seconds.
_SLICE_S = 1.0


class GenPRM(StepJudge):
    """A language model that reads a whole solution k times and names its wrong steps.

    Args:
        engine: generates the critiques; it may be on another machine, and then works while the policy samples. A
            PolicyEngine is the policy's own engine, or the policy as it was at the start.
        template: text file of the prompt, or the name of a packaged one that fits `reference`: boxed (as null), or
            json, for engines that hold a reply to a JSON schema.
        k: critiques per rollout.
        vote: how they are combined.
        sampling: how critiques are drawn.
        reference: show the judge the reference solution, or the gold answer of a problem that has none.
        deadline_s: seconds after a rollout has come at which critiques of it that have not come abstain; what an
            engine in this process stood still while other rollouts were sampled does not count.
        early_stop: abort critiques that can no longer change the verdict; it is that of the full vote.
        first_wave: critiques of a rollout that start at once; the others start when these have come, or half of
            deadline_s has passed, and the vote is not settled. Null starts all k.
        store: file of a critique store (made if need be): what it holds is not asked again; null stores nothing.

    Raises:
        ConfigError: if the settings contradict each other or the template cannot be used.
        DataError: if the store cannot be used.
    """

    def __init__(  # noqa: PLR0913  (every one is a setting of its own in a config)
        self,
        engine: Engine,
        template: str | Path | None = None,
        k: int = 4,
        vote: VoteRule = "majority",
        sampling: Sampling = _SAMPLING,
        reference: bool = False,
        deadline_s: float = 600.0,
        early_stop: bool = True,
        first_wave: int | None = None,
        store: str | Path | None = None,
    ) -> None:
        check_votes(k, vote, sampling, deadline_s)
        check_wave(first_wave, k, early_stop)
        self.engine: Engine = engine
        self.k, self.vote, self.sampling = k, vote, sampling
        self.reference, self.deadline_s = reference, deadline_s
        self.early_stop, self.first_wave = early_stop, first_wave
        self.template = load_template(template, reference)
        check_schema(self.template, engine)
        self.store = CritiqueStore(store) if store is not None else None

    def judge(self, rollouts: Iterable[Rollout], seed: int) -> Iterator[CritiquedRollout]:
        """Ask k critiques of each rollout when it arrives, and yield it when its vote is settled or it is too late.

        Args:
            rollouts: the rollouts of one step, in any order; may block while the policy samples.
            seed: of this step.

        Yields:
            One CritiquedRollout per rollout, in the order they are settled; a critique that failed, came too late or
            cannot be parsed abstains and names its cause.

        Raises:
            ConfigError: with a store, if the engine does not name its model or its weights follow the policy's; or if
                the engine is a PolicyEngine without a policy, or one that cannot hold replies to the template's schema.
            DataError: if the store cannot be used any more.
        """
        check_schema(self.template, self.engine)  # a PolicyEngine knows only now what it is
        pending: list[Asking] = []
        flying: set[str] = set()
        identity = self._identity() if self.store is not None else ""
        try:
            for rollout in self._arriving(rollouts, pending):
                asking = self._prepare(rollout, seed, flying, identity)
                pending.append(asking)
                self._start(asking)
                # A judge in this process moves only here while the policy still samples.
                self._advance(pending, 0.0)
                yield from self._settle(pending)
            while pending:
                if not any(asking.has_news for asking in pending):
                    first = min(asking.since for asking in pending)
                    self._advance(pending, min(_SLICE_S, max(0.0, first + self.deadline_s - time.monotonic())))
                yield from self._settle(pending)
        finally:
            # The stream broke, or nobody wants the rest: free the engine's slots.
            for asking in pending:
                asking.cancel()

    def _arriving(self, rollouts: Iterable[Rollout], pending: list[Asking]) -> Iterator[Rollout]:
        """The rollouts; the deadlines of an engine that stands still while one is waited for stand still too."""
        stream = iter(rollouts)
        while True:
            started = time.monotonic()
            rollout = next(stream, None)
            if self.engine.stands_still:
                for asking in pending:
                    asking.since += time.monotonic() - started
            if rollout is None:
                return
            yield rollout

    def _identity(self) -> str:
        """What all replies of this judge depend on, for the store."""
        engine = self.engine.bound if isinstance(self.engine, PolicyEngine) else self.engine
        identity, schema = judge_identity(engine), self.template.schema
        if schema is None:
            return identity
        return f"{identity} {hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:16]}"

    def _prepare(self, rollout: Rollout, seed: int, flying: set[str], judge: str) -> Asking:
        """Write a rollout's k requests; one without steps needs none."""
        prompt, template = rollout.prompt, self.template
        wave = self.k if self.first_wave is None else self.first_wave
        if not rollout.spans:
            return Asking(rollout, [], template.index_base, wave, flying)
        identity = (seed, prompt.uid, rollout.sample)
        shown = (prompt.reference or prompt.answer) if self.reference else None
        steps = step_texts(rollout.completion.text, rollout.spans)
        # One nonce for the k critiques: their prompt is the same text, which an engine reads once.
        nonce = f"{derive_seed(*identity, 'nonce'):016x}"[-8:]
        messages = tuple(render_messages(prompt.problem, steps, shown, nonce, template))
        asks = [
            Ask(
                Request(
                    f"critique-{seed}-{rollout.row}-{index}",
                    messages,
                    self.sampling,
                    derive_seed(*identity, index),
                    template.schema,
                )
            )
            for index in range(self.k)
        ]
        if self.store is not None:
            bare = render_messages(prompt.problem, steps, shown, "", template)
            for ask in asks:
                ask.key = StoreKey(judge, bare, self.sampling, ask.request.seed, nonce)
        return Asking(rollout, asks, template.index_base, wave, flying)

    def _start(self, asking: Asking) -> None:
        """Submit what may be submitted by now and the store does not hold."""
        for ask in asking.startable():
            if self.store is not None and ask.key is not None and (reply := self.store.get(ask.key.digest)):
                asking.answer(ask, reply, cached=True)
            else:
                asking.submit(ask, self._submit(ask.request))

    def _submit(self, request: Request) -> "Future[Completion]":
        try:
            return self.engine.submit(request)
        except EngineError as error:
            # An engine that refuses one request says so in its future; one that refuses all must not end the step.
            return _failed(error)

    def _advance(self, pending: list[Asking], timeout_s: float) -> None:
        """Step the engine; if it is broken, what is in flight fails with its error."""
        waiting = [ask for asking in pending for ask in asking.asks if ask.waiting]
        if all(ask.future is None or ask.future.done() for ask in waiting):
            return
        try:
            self.engine.step(timeout_s)
        except EngineError as error:
            for ask in waiting:
                if ask.future is not None and (not ask.future.done() or ask.future.cancelled()):
                    ask.future.cancel()
                    ask.future = _failed(error)

    def _settle(self, pending: list[Asking]) -> Iterator[CritiquedRollout]:
        """Take out of `pending` what is settled or too late, and yield it; start what is needed of the others."""
        for asking in list(pending):
            settled = self._proceed(asking)
            if settled or asking.is_late(self.deadline_s):
                pending.remove(asking)
                critiques = asking.close(ABORTED if settled else "timeout")
                yield critiqued(asking.rollout, critiques, self.vote)

    def _proceed(self, asking: Asking) -> bool:
        """Collect what has come, and start more unless it is enough; whether it is."""
        for ask, reply in asking.collect():
            if self.store is not None and ask.key is not None:
                self.store.put(ask.key, ask.request, reply)
        if asking.over(self.vote, self.early_stop):
            return True
        asking.widen(self.deadline_s)
        self._start(asking)
        return asking.over(self.vote, self.early_stop)


def _failed(error: EngineError) -> "Future[Completion]":
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future
