"""An engine that may run beside the trainer, without a server: whoever asks it moves it, from whichever thread."""

import random
import time

from capo_lit.engines.hf import HFEngine


class BesideEngine(HFEngine):
    """HFEngine, called from the thread that gathers ahead.

    Args:
        model: directory of the model.
        pause_s: longest pause before a step of the engine, drawn anew in every process: timing that no seed fixes.
    """

    stands_still = False
    max_batch = 128

    def __init__(self, model: str, pause_s: float = 0.0) -> None:
        super().__init__(model, dtype="float32")
        self._pause_s, self._drawn = pause_s, random.Random(time.time_ns())

    def step(self, timeout_s: float = 1.0) -> None:
        """Advance after a pause."""
        time.sleep(self._pause_s * self._drawn.random())
        super().step(timeout_s)
