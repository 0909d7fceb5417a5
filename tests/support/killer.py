"""A callback that kills its own process with SIGKILL in the middle of a chosen phase of a chosen step."""

import os
import signal
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer

from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.rollout import RolloutCallback

Phase = Literal["rollout", "critique", "backward", "update", "record", "checkpoint"]


def die() -> None:
    """What a power cut would do: no handlers, no flushing."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at_checkpoint(replace: Any) -> Any:
    """A rename that dies at a checkpoint's: the file is written, and not yet in its place."""
    return lambda source, target: die() if str(target).endswith(".ckpt") else replace(source, target)


class KillAt(Callback):
    """Dies in `phase` of rollout step `step`.

    Stands first among the callbacks, so its hooks run before theirs; phases inside a hook are reached by wrapping what
    that hook calls. Of several processes the one of `rank` dies.
    """

    def __init__(self, phase: Phase, step: int, rank: int = 0) -> None:
        self.phase, self.step, self.rank = phase, step, rank
        self._armed = True

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self._armed = trainer.global_rank == self.rank

    def _find(self, trainer: Trainer, kind: type) -> Any:
        return next(callback for callback in trainer.callbacks if isinstance(callback, kind))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch.step != self.step or not self._armed:
            return
        if self.phase == "rollout":
            engine, calls = self._find(trainer, RolloutCallback).sampler.engine, iter(range(100))
            advance = engine.step
            engine.step = lambda *args: (advance(*args), die() if next(calls) == 3 else None)[0]
        elif self.phase == "critique":
            judge = self._find(trainer, CritiqueCallback).judge
            answer = judge.judge

            def dying(rollouts: Any, seed: int) -> Any:
                for index, item in enumerate(answer(rollouts, seed)):
                    if index == 2:
                        die()
                    yield item

            judge.judge = dying
        elif self.phase == "update":
            apply = pl_module.apply_gradient
            pl_module.apply_gradient = lambda optimizer: (apply(optimizer), die())[0]
        elif self.phase == "checkpoint":
            os.replace = _die_at_checkpoint(os.replace)

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        if self._armed and self.phase == "backward" and trainer.fit_loop.epoch_loop.total_batch_idx == self.step:
            die()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._armed and self.phase == "record" and batch.step == self.step:
            die()
