"""Progress for people: a rich bar on a terminal, a line now and then where the output goes to a file."""

import logging
import sys
import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only

_log = logging.getLogger("lightning.pytorch.capo")


class LineProgress(Callback):
    """Logs the progress bar's metrics as one line, at most every `seconds`."""

    seconds = 10.0

    def __init__(self) -> None:
        self._last, self._told = 0.0, -1

    @rank_zero_only
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Log one line about the step before, if it is time: its metrics were reduced after the callbacks had ended."""
        now = time.monotonic()
        if now - self._last >= self.seconds and trainer.global_step > 0:
            self._last = now
            self._tell(trainer)

    @rank_zero_only
    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the last step, unless it was logged."""
        if trainer.global_step > 0:
            self._tell(trainer)

    def _tell(self, trainer: Trainer) -> None:
        if trainer.global_step == self._told:
            return
        self._told = trainer.global_step
        shown = "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.progress_bar_metrics.items()))
        # A run that is limited by epochs or time does not know its last step: a batch may be several optimizer steps.
        end = f"/{trainer.max_steps}" if trainer.max_steps >= 0 else ""
        _log.info("step %d%s  %s", trainer.global_step, end, shown)


class MetricsBar(RichProgressBar):
    """A rich bar that takes up a step's metrics when the next begins: they are reduced after the callbacks' ends."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Show the metrics of the step before."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._update_metrics(trainer, pl_module)
        self.refresh()


def default_progress() -> Callback:
    """A rich bar if standard error is a terminal, else lines."""
    return MetricsBar(leave=True) if sys.stderr.isatty() else LineProgress()
