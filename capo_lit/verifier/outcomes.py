"""Where outcomes come from: the rule verifier, or anything else that says whether a response is right."""

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import count
from types import MappingProxyType

from capo_lit.batch.facts import Critique, Prompt
from capo_lit.core.errors import check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import tally
from capo_lit.verifier.pool import Outcome, Verifier


class OutcomeFuture(Future[Outcome]):
    """The outcome to come of one response.

    Attributes:
        critiques: what a model said of the whole response, where one was asked; `wrong` is then {0} for a wrong
            answer, and there when the outcome is.
    """

    critiques: tuple[Critique, ...] = ()


class OutcomeSource(ABC):
    """Says of responses whether they are right: 1.0, 0.0, or None for unknown.

    Work is submitted, then the source is stepped until the futures are done. Every future is done in bounded time if
    the source is stepped. A future that is cancelled before it is done frees what works on it.

    Attributes:
        counters: of a source that asks critiques, by how they ended, and their tokens; GenORM names them.
        max_unknown_frac: the largest share of unknown outcomes that `check` may let pass; a run sets it to
            --critique.max_abstain_frac.
    """

    counters: Mapping[str, int] = MappingProxyType({})
    max_unknown_frac: float = 0.5

    @abstractmethod
    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Ask for the outcome of one response.

        Args:
            prompt: the problem, with its gold answer.
            response: the policy's text.
            seed: of this response; what is drawn to judge it derives from it.

        Raises:
            CapoError: if no outcome can be had at all. One that fails by itself is unknown.
        """

    @abstractmethod
    def step(self, timeout_s: float = 1.0) -> None:
        """Advance the work in flight once, or wait up to `timeout_s` for one that moves by itself."""

    def check(self, outcomes: Sequence[Outcome]) -> None:  # noqa: B027  (optional hook: unknown outcomes are counted)
        """Look at all outcomes of one batch of rollouts, and stop the run if they cannot be trained on."""

    def close(self) -> None:  # noqa: B027  (optional hook: many sources own nothing)
        """Give back processes, and forget what is in flight."""


class _ByRule(OutcomeSource):
    """Outcomes by rule: the final answer of a response against the gold answer.

    Args:
        verifier: compares them; it moves by itself, in worker processes. In a config it is `rollout.verifier`.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._waiting: set[Future[Outcome]] = set()

    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Verify one response, against every gold answer; nothing is drawn, so the seed has no part in it."""
        future = any_right([self.verifier.submit(gold, response) for gold in prompt.answers or (prompt.answer,)])
        if not future.done():
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)
        return future

    def step(self, timeout_s: float = 1.0) -> None:
        """Wait until a response in flight is verified, or `timeout_s` has passed."""
        if timeout_s > 0:
            # A copy, since the verifier's threads take out what is done.
            wait(self._waiting.copy(), timeout_s, FIRST_COMPLETED)

    def close(self) -> None:
        """End the verifier's workers; what is in flight becomes unknown."""
        self.verifier.close()


def any_right(asked: "Sequence[Future[Outcome]]") -> "Future[Outcome]":
    """The outcome of a response that may be right in several ways.

    Args:
        asked: an outcome for each of the ways; cancelled with the result.

    Returns:
        Done when all of them are: 1.0 if one is right, else None if one is unknown, else 0.0.
    """
    if len(asked) == 1:
        return asked[0]
    out: Future[Outcome] = Future()
    left = count(len(asked) - 1, -1)  # its next() is one operation, whichever thread calls it

    def settle(_: "Future[Outcome]") -> None:
        if next(left) > 0:
            return
        if any(one.cancelled() for one in asked):
            out.cancel()
        elif out.set_running_or_notify_cancel():
            _set_best(out, asked)

    def give_up(done: "Future[Outcome]") -> None:
        if done.cancelled():
            for one in asked:
                one.cancel()

    out.add_done_callback(give_up)
    for one in asked:
        one.add_done_callback(settle)
    return out


def _set_best(out: "Future[Outcome]", done: "Sequence[Future[Outcome]]") -> None:
    errors = [error for error in (one.exception() for one in done) if error is not None]
    if errors:
        out.set_exception(errors[0])
        return
    outcomes = [one.result() for one in done]
    out.set_result(1.0 if 1.0 in outcomes else None if None in outcomes else 0.0)


class NoisyOutcomes(_ByRule):
    """Outcomes by rule with the errors of k voters: what a GenORM's mistakes cost, without a model.

    Each of k votes on a response is the rule's outcome, turned round with probability `error_rate`. The outcome is 0
    if c >= k/2 of them say wrong, else 1, as in GenORM. What is unknown by rule stays unknown.

    Args:
        k: votes per response.
        error_rate: probability in [0, 1] that a vote is turned round.

    Raises:
        ConfigError: if a setting is out of range, or k > 1 votes would all be the same.
    """

    def __init__(self, k: int = 1, error_rate: float = 0.0) -> None:
        checks = (
            (k >= 1, f"k {k}", "an integer >= 1", "k"),
            (0 <= error_rate <= 1, f"error_rate {error_rate}", "a probability", "error_rate"),
            (
                k == 1 or error_rate > 0,
                f"k {k} votes without errors",
                "k 1: all votes would be the same",
                "k, or error_rate",
            ),
        )
        check_settings(checks, "NoisyOutcomes")
        super().__init__(Verifier())
        self.k, self.error_rate = k, error_rate

    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Verify one response and vote on it; the votes are a function of seed and prompt alone."""
        out: Future[Outcome] = Future()
        draws = [random.Random(derive_seed(seed, prompt.uid, "noisy outcome", vote)).random() for vote in range(self.k)]
        flips = [draw < self.error_rate for draw in draws]

        def settle(rule: "Future[Outcome]") -> None:
            if not out.set_running_or_notify_cancel():
                return
            if (error := rule.exception()) is not None:
                out.set_exception(error)
            else:
                out.set_result(_voted(rule.result(), flips))

        super().submit(prompt, response, seed).add_done_callback(settle)
        return out


def _voted(outcome: Outcome, flips: Sequence[bool]) -> Outcome:
    """The majority of votes, some of which are turned round; a tie is wrong."""
    if outcome is None:
        return None
    wrong = [(outcome == 0) != flip for flip in flips]
    return 1.0 - tally([frozenset({0}) if vote else frozenset() for vote in wrong], 1, "majority").step_error[0]


def outcome_source(source: Verifier | OutcomeSource) -> OutcomeSource:
    """The source itself, or the one over a verifier."""
    return source if isinstance(source, OutcomeSource) else _ByRule(source)
