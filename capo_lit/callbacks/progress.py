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
    """Logs the progress bar's metrics as one line, at most every `seconds`.

    Args:
        seconds: shortest time between two lines.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds, self._last = seconds, 0.0

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log one line if it is time, and at the last step."""
        now = time.monotonic()
        if now - self._last < self.seconds and trainer.global_step != trainer.max_steps:
            return
        self._last = now
        shown = "  ".join(f"{name} {float(value):.4g}" for name, value in sorted(trainer.progress_bar_metrics.items()))
        _log.info("step %d/%s  %s", trainer.global_step, trainer.max_steps, shown)


def default_progress() -> Callback:
    """A rich bar if standard error is a terminal, else lines."""
    return RichProgressBar(leave=True) if sys.stderr.isatty() else LineProgress()
