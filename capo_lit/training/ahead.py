"""The next step's rollouts and critiques, gathered in a thread while this step trains."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Thread

from capo_lit.batch.saved import State, batch_state, restored
from capo_lit.batch.step import StepBatch
from capo_lit.core.ranks import from_all


class Ahead:
    """Holds at most one batch that is being filled, or was filled, ahead of its step.

    Args:
        fill: fills a batch with rollouts and verdicts; it runs in a thread, one call at a time.
    """

    def __init__(self, fill: Callable[[StepBatch], None]) -> None:
        self._fill = fill
        self._pending: Future[StepBatch] | None = None
        self._saved: list[State] = []

    def launch(self, batch: StepBatch) -> None:
        """Start on a batch."""
        self._pending = Future()
        # A daemon: a run that fails meanwhile can end.
        Thread(target=self._work, args=(batch, self._pending), name=f"step {batch.step} ahead", daemon=True).start()

    def take(self, batch: StepBatch) -> bool:
        """Fill a step's batch with what was gathered for it, waiting until it is there; whether there was any.

        Raises:
            CapoError: of the gathering, if it failed.
            BatchError: if it was for another batch.
        """
        if self._saved:
            saved, self._saved = self._saved, []
            batch.take_over(restored(saved, batch.prompts, batch.step))
            return True
        if self._pending is None:
            return False
        pending, self._pending = self._pending, None
        batch.take_over(pending.result())
        return True

    def wait(self) -> None:
        """Wait until nothing is under way any more; what failed is told by `take`."""
        if self._pending is not None:
            self._pending.exception()

    def drop(self) -> None:
        """Wait for what is under way, and forget it: the run ended before its step."""
        self.wait()
        self._pending, self._saved = None, []

    def state(self) -> list[State]:
        """What was gathered, of all of the trainer's processes; each of them calls it, and waits for its own.

        A batch that failed is left out: it fails again when it is taken, or is sampled anew by the run that resumes.
        """
        self.wait()
        pending = self._pending
        own = batch_state(pending.result()) if pending is not None and pending.exception() is None else None
        states = from_all(own)
        found = [state for state in states if state is not None]
        return found if len(found) == len(states) else []

    def restore(self, states: Sequence[State]) -> None:
        """Go on with what another run has saved."""
        self._saved, self._pending = list(states), None

    def _work(self, batch: StepBatch, done: "Future[StepBatch]") -> None:
        try:
            self._fill(batch)
        except BaseException as error:  # noqa: BLE001  (it is raised where the batch is taken)
            done.set_exception(error)
        else:
            done.set_result(batch)
