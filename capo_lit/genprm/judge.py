"""The GenPRM: k critiques of every rollout from a language model, parsed and voted."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from capo_lit.batch.facts import CritiquedRollout, Rollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import check_settings
from capo_lit.core.seeding import derive_seed
from capo_lit.core.votes import VoteRule
from capo_lit.engines.base import Engine
from capo_lit.genprm.asking import SAMPLING, AsksModel, PendingVote
from capo_lit.genprm.base import StepJudge, critiqued, step_texts
from capo_lit.genprm.parse import parse_critique
from capo_lit.genprm.store import CritiqueStore

# How long one wait may last before deadlines are looked at again, seconds.
_SLICE_S = 1.0


class GenPRM(AsksModel, StepJudge):
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
        sampling: Sampling = SAMPLING,
        reference: bool = False,
        deadline_s: float = 600.0,
        early_stop: bool = True,
        first_wave: int | None = None,
        store: str | Path | None = None,
    ) -> None:
        _check_vote(k, vote, sampling, early_stop, first_wave)
        super().__init__(engine, template, k, sampling, reference, deadline_s)
        self.vote, self.early_stop, self.first_wave = vote, early_stop, first_wave
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
        self._check_schema()  # a PolicyEngine knows only now what it is
        pending: dict[PendingVote, Rollout] = {}
        in_flight: set[str] = set()
        identity = self._identity()
        try:
            for rollout in self._arriving(rollouts, pending):
                vote = self._ask(rollout, seed, identity, in_flight)
                pending[vote] = rollout
                self._start(vote)
                # A judge in this process moves only here while the policy still samples.
                self._advance(pending, 0.0)
                yield from self._voted(pending)
            while pending:
                if not any(vote.has_news for vote in pending):
                    first = min(vote.since for vote in pending)
                    self._advance(pending, min(_SLICE_S, max(0.0, first + self.deadline_s - time.monotonic())))
                yield from self._voted(pending)
        finally:
            # The stream broke, or nobody wants the rest: free the engine's slots.
            for vote in pending:
                vote.cancel()

    def _arriving(self, rollouts: Iterable[Rollout], pending: Iterable[PendingVote]) -> Iterator[Rollout]:
        """The rollouts; the deadlines of an engine that stands still while one is waited for stand still too."""
        stream = iter(rollouts)
        while True:
            started = time.monotonic()
            rollout = next(stream, None)
            if self.engine.stands_still:
                for vote in pending:
                    vote.since += time.monotonic() - started
            if rollout is None:
                return
            yield rollout

    def _ask(self, rollout: Rollout, seed: int, identity: str, in_flight: set[str]) -> PendingVote:
        """The k requests about a rollout; their seeds are a function of step, prompt, sample and critique."""
        asked = (seed, rollout.prompt.uid, rollout.sample)
        return self._prepare(
            f"critique-{seed}-{rollout.row}",
            rollout.prompt,
            step_texts(rollout.completion.text, rollout.spans),
            derive_seed(*asked, "nonce"),
            [derive_seed(*asked, index) for index in range(self.k)],
            identity,
            in_flight,
        )

    def _voted(self, pending: dict[PendingVote, Rollout]) -> Iterator[CritiquedRollout]:
        """Take out of `pending` what is settled or too late, and yield it."""
        for vote, critiques in self._settled(pending):
            yield critiqued(pending.pop(vote), critiques, self.vote)

    def _wrong_steps(self, reply: str, num_steps: int, quotable: str) -> frozenset[int] | None:
        return parse_critique(reply, num_steps, self.template.index_base, quotable)


def _check_vote(k: int, vote: VoteRule, sampling: Sampling, early_stop: bool, first_wave: int | None) -> None:
    """Refuse votes that cannot be taken, and a first wave that is none of k critiques."""
    checks = (
        (vote in get_args(VoteRule), f"vote {vote!r}", f"one of {', '.join(get_args(VoteRule))}", "vote"),
        (
            vote != "greedy" or (k == 1 and sampling.temperature == 0),
            f"vote greedy with k {k} and temperature {sampling.temperature}",
            "k 1 and temperature 0",
            "k and sampling.temperature, or vote",
        ),
        (
            first_wave is None or 1 <= first_wave <= k,
            f"first_wave {first_wave}",
            f"1 to k = {k}, or null",
            "first_wave",
        ),
        (
            first_wave is None or early_stop,
            f"first_wave {first_wave} without early_stop",
            "early_stop true, for without it all k are always asked",
            "early_stop, or first_wave null",
        ),
    )
    check_settings(checks, "GenPRM")
