"""The GenPRM: k critiques of every rollout from a language model, parsed and voted."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from capo_lit.batch import Completion, Critique, CritiquedRollout, Rollout, Span
from capo_lit.core.steps import Style, split_steps
from capo_lit.core.votes import VoteRule
from capo_lit.engines.base import Engine, Request, Sampling
from capo_lit.errors import EngineError, check_settings
from capo_lit.genprm.base import StepJudge, critiqued, step_texts
from capo_lit.genprm.parse import last_box, parse_critique
from capo_lit.genprm.prompts import load_template
from capo_lit.genprm.render import render_messages
from capo_lit.seeding import derive_seed

_SAMPLING = Sampling(temperature=0.8, max_tokens=2048)
# How long one wait may last before deadlines are looked at again, seconds.
_SLICE_S = 1.0


@dataclass(eq=False, slots=True)
class _Asked:
    """A rollout whose critiques are under way."""

    rollout: Rollout
    spans: list[Span]
    futures: "list[Future[Completion]]"
    submitted: float

    @property
    def done(self) -> bool:
        return all(future.done() for future in self.futures)


class GenPRM(StepJudge):
    """A language model that reads a whole solution k times and names its wrong steps.

    Args:
        engine: generates the critiques; it may be on another machine, and then works while the policy samples.
        template: text file of the prompt; null takes the packaged one that fits `reference`.
        k: critiques per rollout.
        vote: how they are combined.
        sampling: how critiques are drawn.
        style: how a solution is split into steps.
        reference: show the judge the reference solution, or the gold answer of a problem that has none.
        deadline_s: seconds after its submission at which a critique that has not come abstains.

    Raises:
        ConfigError: if the settings contradict each other or the template cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        template: str | Path | None = None,
        k: int = 4,
        vote: VoteRule = "majority",
        sampling: Sampling = _SAMPLING,
        style: Style = "paragraph",
        reference: bool = False,
        deadline_s: float = 600.0,
    ) -> None:
        _check(k, vote, sampling, style, deadline_s)
        self.engine, self.k, self.vote, self.sampling = engine, k, vote, sampling
        self.style, self.reference, self.deadline_s = style, reference, deadline_s
        self.template = load_template(template, reference)

    def judge(self, rollouts: Iterable[Rollout], seed: int) -> Iterator[CritiquedRollout]:
        """Ask k critiques of each rollout when it arrives, and yield it when all have come or are too late.

        Args:
            rollouts: the rollouts of one step, in any order; may block while the policy samples.
            seed: of this step.

        Yields:
            One CritiquedRollout per rollout, in the order they are settled; a critique that failed, came too late or
            cannot be parsed abstains and names its cause.
        """
        pending: list[_Asked] = []
        try:
            for rollout in rollouts:
                pending.append(self._ask(rollout, seed))
                # A judge in this process moves only here while the policy still samples.
                self._advance(pending, 0.0)
                yield from self._settle(pending)
            while pending:
                if not any(asked.done for asked in pending):
                    first = min(asked.submitted for asked in pending)
                    self._advance(pending, min(_SLICE_S, max(0.0, first + self.deadline_s - time.monotonic())))
                yield from self._settle(pending)
        finally:
            # The stream broke, or nobody wants the rest: free the engine's slots.
            for asked in pending:
                _cancel(asked)

    def _ask(self, rollout: Rollout, seed: int) -> _Asked:
        """Split a rollout and submit its k requests; one without steps needs none."""
        text, prompt, submitted = rollout.completion.text, rollout.prompt, time.monotonic()
        spans = split_steps(text, self.style)
        if not spans:
            return _Asked(rollout, spans, [], submitted)
        identity = (seed, prompt.uid, rollout.sample)
        shown = (prompt.reference or prompt.answer) if self.reference else None
        # One nonce for the k critiques: their prompt is the same text, which an engine reads once.
        nonce = f"{derive_seed(*identity, 'nonce'):016x}"[-8:]
        messages = tuple(render_messages(prompt.problem, step_texts(text, spans), shown, nonce, self.template))
        requests = [
            Request(f"critique-{seed}-{rollout.row}-{index}", messages, self.sampling, derive_seed(*identity, index))
            for index in range(self.k)
        ]
        return _Asked(rollout, spans, [self._submit(request) for request in requests], submitted)

    def _submit(self, request: Request) -> "Future[Completion]":
        try:
            return self.engine.submit(request)
        except EngineError as error:
            # An engine that refuses one request says so in its future; one that refuses all must not end the step.
            return _failed(error)

    def _advance(self, pending: list[_Asked], timeout_s: float) -> None:
        """Step the engine; if it is broken, what is in flight fails with its error."""
        if all(asked.done for asked in pending):
            return
        try:
            self.engine.step(timeout_s)
        except EngineError as error:
            for asked in pending:
                _cancel(asked)
                asked.futures = [future if _answered(future) else _failed(error) for future in asked.futures]

    def _settle(self, pending: list[_Asked]) -> Iterator[CritiquedRollout]:
        """Take out of `pending` what is done or too late, and yield it."""
        latest = time.monotonic() - self.deadline_s
        for asked in [asked for asked in pending if asked.done or asked.submitted <= latest]:
            pending.remove(asked)
            critiques = [self._critique(future, asked) for future in asked.futures]
            _cancel(asked)
            yield critiqued(asked.rollout, asked.spans, critiques, self.vote)

    def _critique(self, future: "Future[Completion]", asked: _Asked) -> Critique:
        """What one future says about a rollout."""
        if not future.done():
            return Critique("", None, "timeout", seconds=time.monotonic() - asked.submitted)
        if future.cancelled():
            return Critique("", None, "error: cancelled by the engine")
        if error := future.exception():
            return Critique("", None, f"error: {error}")
        completion = future.result()
        wrong = parse_critique(completion.text, len(asked.spans), self.template.index_base)
        cut = completion.finish_reason == "length"
        if cut and wrong is not None and _quoted(completion.text, asked.rollout.completion.text):
            wrong = None
        cause = "" if wrong is not None else "length" if cut else "parse"
        tokens = completion.prompt_tokens, len(completion.ids)
        return Critique(completion.text, wrong, cause, *tokens, seconds=completion.seconds)


def _quoted(reply: str, solution: str) -> bool:
    """Whether the last box of an unfinished reply also stands in the solution, so that it may be no verdict."""
    box = last_box(reply)
    return box is not None and f"\\boxed{{{box}}}" in solution


def _answered(future: "Future[Completion]") -> bool:
    return future.done() and not future.cancelled()


def _failed(error: EngineError) -> "Future[Completion]":
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future


def _cancel(asked: _Asked) -> None:
    for future in asked.futures:
        future.cancel()


def _check(k: int, vote: VoteRule, sampling: Sampling, style: Style, deadline_s: float) -> None:
    greedy = sampling.temperature == 0
    checks = (
        (k >= 1, f"k {k}", "at least 1 critique", "k"),
        (vote in get_args(VoteRule), f"vote {vote!r}", f"one of {', '.join(get_args(VoteRule))}", "vote"),
        (style in get_args(Style), f"style {style!r}", f"one of {', '.join(get_args(Style))}", "style"),
        (deadline_s > 0, f"deadline_s {deadline_s}", "a number of seconds > 0", "deadline_s"),
        (
            vote != "greedy" or (k == 1 and greedy),
            f"vote greedy with k {k} and temperature {sampling.temperature}",
            "k 1 and temperature 0",
            "k and sampling.temperature, or vote",
        ),
        (
            k == 1 or not greedy,
            f"k {k} at temperature 0",
            "a temperature > 0, since k critiques at 0 are one critique k times",
            "sampling.temperature, or k 1",
        ),
    )
    check_settings(checks, "GenPRM")
