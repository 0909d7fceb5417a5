"""The GenORM: k critiques of a whole solution, each of which says yes or no, voted into an outcome."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from capo_lit.batch.facts import Completion, Prompt
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError, JudgeError, check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import settled, tally
from capo_lit.engines.base import Engine, Request
from capo_lit.genprm.boxes import boxes_of
from capo_lit.genprm.prompts import PACKAGED, load_template
from capo_lit.genprm.render import render_messages
from capo_lit.genprm.spoken import Quotations, spoken, unfenced
from capo_lit.genprm.verdict_boxes import boxed_verdict, echoes
from capo_lit.verifier.outcomes import OutcomeSource
from capo_lit.verifier.pool import Outcome

_SAMPLING = Sampling(temperature=0.8, max_tokens=2048)
_VERDICT = re.compile(r"(?:\\(?:text|mathrm|textbf|mathbf)\{)?[\s*$]*(yes|no)[\s*$.!]*\}?", re.IGNORECASE)
# A vote on one step, the whole solution: flagged means that its answer is wrong.
_WRONG, _RIGHT = frozenset({0}), frozenset[int]()
Vote = frozenset[int] | None


def parse_outcome(reply: str) -> bool | None:
    r"""The verdict of a reply: what the boxes say that are the judge's own.

    Args:
        reply: the judge's own turn, verbatim.

    Returns:
        Whether the answer is right: \boxed{yes} or \boxed{no}, with any case and markup. None if the reply abstains:
        no such box outside its thinking and quotations, two that differ, or anything else in the last one.
    """
    said = spoken(reply)
    boxes = None if said is None else boxes_of(said := unfenced(said))
    if said is None or boxes is None:
        return None
    quotations = Quotations(said, [(box.start, box.end) for box in boxes])
    vote, _ = boxed_verdict(said, boxes, quotations.hold, _boxed_vote, index_base=None)
    return None if vote is None else vote == _RIGHT


def _boxed_vote(content: str) -> Vote:
    match = _VERDICT.fullmatch(content.strip())
    return None if match is None else _RIGHT if match[1].lower() == "yes" else _WRONG


@dataclass(eq=False, slots=True)
class _Asked:
    """A response whose critiques are under way."""

    response: str
    out: "Future[Outcome]"
    waiting: "list[Future[Completion]]"
    submitted: float
    votes: list[Vote] = field(default_factory=list)


class GenORM(OutcomeSource):
    """A language model that reads a whole solution k times and votes on its outcome.

    The outcome is 0 if c >= v/2 of v valid critiques say no, else 1: as in the majority vote on a step, a tie counts
    against the policy. Without a valid critique it is unknown. Critiques that cannot change the outcome are cancelled.

    Args:
        engine: generates the critiques; it may be on another machine, and then works while the policy samples.
        template: text file of the prompt, with the fields of a critique's ({steps} is the whole solution); null takes
            the packaged one that fits `reference`.
        k: critiques per response.
        sampling: how critiques are drawn.
        reference: show the judge the reference solution, or the gold answer of a problem that has none.
        deadline_s: seconds after its submission at which a critique that has not come abstains.
        max_unknown_frac: a batch of rollouts of which a larger share has no outcome stops the run.

    Attributes:
        counters: critiques so far by how they ended: yes, no, parse, length, timeout, error, and spared (cancelled,
            since the vote was settled); prompt_tokens and completion_tokens of those that came; and empty, the
            responses without text, which are wrong and need no critique.

    Raises:
        ConfigError: if the settings contradict each other or the template cannot be used.
    """

    def __init__(
        self,
        engine: Engine,
        template: str | Path | None = None,
        k: int = 4,
        sampling: Sampling = _SAMPLING,
        reference: bool = False,
        deadline_s: float = 600.0,
        max_unknown_frac: float = 0.5,
    ) -> None:
        checks = (
            (k >= 1, f"k {k}", "at least 1 critique", "k"),
            (deadline_s > 0, f"deadline_s {deadline_s}", "a number of seconds > 0", "deadline_s"),
            (0 <= max_unknown_frac <= 1, f"max_unknown_frac {max_unknown_frac}", "a share", "max_unknown_frac"),
            (
                k == 1 or sampling.temperature > 0,
                f"k {k} at temperature 0",
                "a temperature > 0, since k critiques at 0 are one critique k times",
                "sampling.temperature, or k 1",
            ),
        )
        check_settings(checks, "GenORM")
        self.engine, self.k, self.sampling, self.reference = engine, k, sampling, reference
        self.deadline_s, self.max_unknown_frac = deadline_s, max_unknown_frac
        name = "outcome_with_reference.txt" if reference else "outcome.txt"
        self.template = load_template(PACKAGED / name if template is None else template, reference)
        if self.template.schema is not None:
            raise ConfigError("a JSON schema", "a reply whose verdict is boxed", self.template.where, "template")
        self.counters: Counter[str] = Counter()
        self._pending: list[_Asked] = []
        self._submitted = 0
        self._last_error = "none"

    def submit(self, prompt: Prompt, response: str, seed: int = 0) -> "Future[Outcome]":
        """Ask k critiques of one response; the future is done when a `step` has settled the vote.

        Args:
            prompt: the problem.
            response: the policy's text; one without text is wrong and needs no critique.
            seed: of this response; each critique's own seed derives from it.
        """
        out: Future[Outcome] = Future()
        if not response.strip():
            self.counters["empty"] += 1
            out.set_result(0.0)
            return out
        shown = (prompt.reference or prompt.answer) if self.reference else None
        # One nonce for the k critiques: their prompt is the same text, which an engine reads once.
        nonce = f"{derive_seed(seed, prompt.uid, 'outcome nonce'):016x}"[-8:]
        messages = tuple(render_messages(prompt.problem, [response], shown, nonce, self.template))
        self._submitted += 1
        waiting = [
            self._ask(
                Request(
                    f"outcome-{self._submitted}-{index}",
                    messages,
                    self.sampling,
                    derive_seed(seed, prompt.uid, "outcome", index),
                )
            )
            for index in range(self.k)
        ]
        self._pending.append(_Asked(response, out, waiting, time.monotonic()))
        return out

    def step(self, timeout_s: float = 1.0) -> None:
        """Step the engine once, and settle the votes that have come in or are too late."""
        wanted = [asked for asked in self._pending if not asked.out.cancelled()]
        for asked in self._pending:
            if asked.out.cancelled():
                _cancel(asked.waiting)
        self._pending = wanted
        if any(not future.done() for asked in wanted for future in asked.waiting):
            left = min(asked.submitted for asked in wanted) + self.deadline_s - time.monotonic()
            self._advance(max(0.0, min(timeout_s, left)))
        latest = time.monotonic() - self.deadline_s
        self._pending = [asked for asked in wanted if not self._settle(asked, late=asked.submitted <= latest)]

    def check(self, outcomes: Sequence[Outcome]) -> None:
        """Refuse a judge that does not say anything.

        Raises:
            JudgeError: if more than a share of max_unknown_frac of the outcomes is unknown.
        """
        unknown = sum(outcome is None for outcome in outcomes)
        if unknown > self.max_unknown_frac * len(outcomes):
            raise JudgeError(
                f"{unknown} of {len(outcomes)} outcomes unknown (critiques so far: {dict(self.counters)}; last error: "
                f"{self._last_error})",
                f"at most a share of {self.max_unknown_frac} without a valid critique",
                "GenORM",
                "--rollout.outcomes (model, template, sampling.max_tokens, deadline_s, or max_unknown_frac)",
            )

    def close(self) -> None:
        """Cancel what is in flight. The engine stays: it is built once per process."""
        for asked in self._pending:
            _cancel([*asked.waiting, asked.out])
        self._pending = []

    def _ask(self, request: Request) -> "Future[Completion]":
        try:
            return self.engine.submit(request)
        except EngineError as error:  # one that refuses everything must not end the step
            return _failed(error)

    def _advance(self, timeout_s: float) -> None:
        """Step the engine; if it is broken, what is in flight fails with its error."""
        try:
            self.engine.step(timeout_s)
        except EngineError as error:
            for asked in self._pending:
                lost = [future for future in asked.waiting if not future.done()]
                _cancel(lost)
                asked.waiting = [_failed(error) if future in lost else future for future in asked.waiting]

    def _settle(self, asked: _Asked, late: bool) -> bool:
        """Count what has come; if that settles the vote, fill the future."""
        done = [future for future in asked.waiting if future.done()]
        asked.waiting = [future for future in asked.waiting if not future.done()]
        asked.votes += [self._vote(future, asked.response) for future in done]
        if not late and not settled(asked.votes, len(asked.waiting), 1, "majority"):
            return False
        if asked.waiting:
            self.counters["timeout" if late else "spared"] += len(asked.waiting)
            _cancel(asked.waiting)
        verdict = tally(asked.votes, 1, "majority")
        asked.out.set_result(1.0 - verdict.step_error[0] if verdict.valid else None)
        return True

    def _vote(self, future: "Future[Completion]", response: str) -> Vote:
        """What one critique says, and how it ended."""
        error = "cancelled by the engine" if future.cancelled() else future.exception()
        if error is not None:
            self.counters["error"] += 1
            self._last_error = str(error)
            return None
        reply = future.result()
        self.counters["prompt_tokens"] += reply.prompt_tokens
        counted = reply.completion_tokens
        self.counters["completion_tokens"] += len(reply.ids) if counted is None else counted
        right, cut = parse_outcome(reply.text), reply.finish_reason == "length"
        vote = None if right is None else _RIGHT if right else _WRONG
        # A box of an unfinished reply may be a quotation of the solution's.
        if vote is None or (cut and echoes(reply.text, response, vote, _boxed_vote)):
            self.counters["length" if cut else "parse"] += 1
            return None
        self.counters["yes" if right else "no"] += 1
        return vote


def _failed(error: EngineError) -> "Future[Completion]":
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future


def _cancel(futures: "Sequence[Future[Completion] | Future[Outcome]]") -> None:
    for future in futures:
        future.cancel()
