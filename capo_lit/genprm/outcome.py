"""The GenORM: a judge of one step, the whole solution, whose critiques say yes or no."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from capo_lit.batch.facts import Critique, Prompt
from capo_lit.core.errors import ConfigError, JudgeError
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import tally
from capo_lit.genprm.asking import AsksModel, PendingVote
from capo_lit.genprm.parse import parse_word
from capo_lit.genprm.prompts import PACKAGED, Template, load_template
from capo_lit.verifier.outcomes import OutcomeFuture, OutcomeSource
from capo_lit.verifier.pool import Outcome

_VERDICT = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\{)?[\s*$]*(yes|no)[\s*$.!]*\}?", re.IGNORECASE)
# A vote on one step, the whole solution: flagged means that its answer is wrong.
_WRONG, _RIGHT = frozenset({0}), frozenset[int]()


def parse_outcome(reply: str) -> bool | None:
    r"""The verdict of a reply: what the boxes say that are the judge's own.

    Args:
        reply: the judge's own turn, verbatim.

    Returns:
        Whether the answer is right: \boxed{yes} or \boxed{no}, with any case and markup. None if the reply abstains:
        no such box outside its thinking and quotations, two that differ, or anything else in the last one.
    """
    vote = parse_word(reply, _yes_or_no)
    return None if vote is None else vote == _RIGHT


def _yes_or_no(content: str) -> frozenset[int] | None:
    match = _VERDICT.fullmatch(content.strip())
    return None if match is None else _RIGHT if match[1].lower() == "yes" else _WRONG


class GenORM(AsksModel, OutcomeSource):
    """A language model that reads a whole solution k times and votes on its outcome.

    The outcome is 0 if c >= v/2 of v valid critiques say no, else 1: as in the majority vote on a step, a tie counts
    against the policy. Without a valid critique it is unknown. Critiques that cannot change the outcome are cancelled.

    Its settings are those of `AsksModel`. In a template, {steps} is the whole solution.

    Attributes:
        counters: critiques so far by how they ended: yes, no, parse, length, timeout, error, and spared (cancelled,
            since the vote was settled); prompt_tokens and completion_tokens of those that came; and empty, the
            responses without text, which are wrong and need no critique.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.counters: Counter[str] = Counter()
        self._pending: dict[PendingVote, OutcomeFuture] = {}
        self._submitted = 0
        self._last_error = "none"

    def _load(self, template: str | Path | None, reference: bool) -> Template:
        packaged = PACKAGED / ("outcome_with_reference.txt" if reference else "outcome.txt")
        loaded = load_template(packaged if template is None else template, reference)
        if loaded.schema is not None:
            raise ConfigError("a JSON schema", "a reply whose verdict is boxed", loaded.where, "template")
        return loaded

    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Ask k critiques of one response; the future is done when a `step` has settled the vote.

        Args:
            prompt: the problem.
            response: the policy's text; one without text is wrong and needs no critique.
            seed: of this response; each critique's own seed derives from it.
        """
        out = OutcomeFuture()
        if not response.strip():
            self.counters["empty"] += 1
            out.set_result(0.0)
            return out
        self._submitted += 1
        seeds = [derive_seed(seed, prompt.uid, "outcome", index) for index in range(self.k)]
        nonce_seed = derive_seed(seed, prompt.uid, "outcome nonce")
        vote = self._prepare(f"outcome-{self._submitted}", prompt, [response], nonce_seed, seeds)
        self._start(vote)
        self._pending[vote] = out
        return out

    def step(self, timeout_s: float = 1.0) -> None:
        """Step the engine once, and settle the votes that have come in or are too late."""
        for vote in [vote for vote, out in self._pending.items() if out.cancelled()]:
            del self._pending[vote]
            vote.cancel()
            self._count(one.result for one in vote.critiques if one.result is not None)
        left = min((vote.since for vote in self._pending), default=0.0) + self.deadline_s - time.monotonic()
        self._advance(self._pending, max(0.0, min(timeout_s, left)))
        for vote, critiques in self._settled(self._pending):
            self._count(critiques)
            verdict = tally([critique.wrong for critique in critiques if not critique.aborted], 1, self.vote)
            out = self._pending.pop(vote)
            out.critiques = tuple(critiques)
            out.set_result(1.0 - verdict.step_error[0] if verdict.valid else None)

    def check(self, outcomes: Sequence[Outcome]) -> None:
        """Refuse a judge that does not say anything.

        Raises:
            JudgeError: if a larger share of the outcomes than max_unknown_frac is unknown.
        """
        unknown = sum(outcome is None for outcome in outcomes)
        if unknown > self.max_unknown_frac * len(outcomes):
            raise JudgeError(
                f"{unknown} of {len(outcomes)} outcomes unknown (critiques so far: {dict(self.counters)}; last error: "
                f"{self._last_error})",
                f"at most a share of {self.max_unknown_frac} without a valid critique",
                "GenORM",
                "--rollout.outcomes (model, template, sampling.max_tokens, deadline_s), or --critique.max_abstain_frac",
            )

    def close(self) -> None:
        """Cancel what is in flight. The engine stays: it is built once per process."""
        for vote, out in self._pending.items():
            vote.cancel()
            out.cancel()
        self._pending = {}

    def _wrong_steps(self, reply: str, num_steps: int, quotable: str) -> frozenset[int] | None:
        return parse_word(reply, _yes_or_no, quotable)

    def _count(self, critiques: Iterable[Critique]) -> None:
        """Count how critiques ended."""
        for critique in critiques:
            end, _, error = critique.cause.partition(": ")
            self._last_error = error or self._last_error
            said = "no" if critique.wrong else "yes"
            self.counters["spared" if critique.aborted else end or said] += 1
            if end in ("", "parse", "length"):
                self.counters["prompt_tokens"] += critique.prompt_tokens
                self.counters["completion_tokens"] += critique.completion_tokens
