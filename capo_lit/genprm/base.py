"""What every judge of steps does: take rollouts as they finish, give back each with its verdict."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator

from capo_lit.batch import CritiquedRollout, Rollout


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
