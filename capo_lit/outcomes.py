"""Where outcomes come from: the rule verifier, or anything else that says whether a response is right."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

from capo_lit.batch import Prompt
from capo_lit.verifier import Outcome, Verifier


class OutcomeSource(ABC):
    """Says of responses whether they are right: 1.0, 0.0, or None for unknown.

    Work is submitted, then the source is stepped until the futures are done. Every future is done in bounded time if
    the source is stepped. A future that is cancelled before it is done frees what works on it.
    """

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


class RuleOutcomes(OutcomeSource):
    """Outcomes by rule: the final answer of a response against the gold answer.

    Args:
        verifier: compares them; it moves by itself, in worker processes.
    """

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._waiting: set[Future[Outcome]] = set()

    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Verify one response; nothing is drawn, so the seed has no part in it."""
        future = self.verifier.submit(prompt.answer, response)
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


def outcome_source(source: Verifier | OutcomeSource) -> OutcomeSource:
    """The source itself, or the one over a verifier."""
    return RuleOutcomes(source) if isinstance(source, Verifier) else source
