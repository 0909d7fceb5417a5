"""What every judge of steps does: take rollouts as they finish, give back each with its verdict."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

from capo_lit.batch.facts import Critique, CritiquedRollout, Rollout, Span
from capo_lit.core.votes import VoteRule, tally


class StepJudge(ABC):
    """Names the wrong steps of rollouts, by k critiques and a vote."""

    @abstractmethod
    def judge(self, rollouts: Iterable[Rollout], seed: int) -> Iterator[CritiquedRollout]:
        """Critique rollouts as they arrive and yield each one when its verdict is settled.

        `rollouts` may be a stream that blocks while the policy still samples: a judge starts on what has arrived.

        Args:
            rollouts: the rollouts of one step, in any order.
            seed: of this step, derived from (run seed, step); each critique's own seed derives from it.

        Yields:
            One CritiquedRollout per rollout, in any order.
        """


def step_texts(text: str, spans: Sequence[Span]) -> list[str]:
    """The text of every step, cut out of a response by its spans.

    Args:
        text: the response the spans were split from.
        spans: character spans, as a rollout has them.

    Returns:
        One string per span; joined they are `text` again.
    """
    return [text[start:end] for start, end in spans]


def critiqued(rollout: Rollout, critiques: Sequence[Critique], rule: VoteRule) -> CritiquedRollout:
    """Vote the critiques of one rollout and bind the verdict to it; the one place where critiques become a verdict.

    Args:
        rollout: the rollout that was critiqued, with its steps.
        critiques: in the order they were asked; an abstention has `wrong` None. Aborted ones neither vote nor
            abstain. Empty for a rollout of zero steps, which needs none.
        rule: how the votes are combined.

    Returns:
        The rollout with its verdict.
    """
    votes = [critique.wrong for critique in critiques if not critique.aborted]
    return CritiquedRollout(rollout, tuple(critiques), tally(votes, len(rollout.spans), rule))
