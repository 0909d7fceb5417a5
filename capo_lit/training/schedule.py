"""Learning-rate schedules as factors of the peak."""

import math
from collections.abc import Callable

from capo_lit.core.errors import ConfigError
from capo_lit.training.settings import Schedule

_COSINE_FLOOR = 0.1


def lr_factor(schedule: Schedule, warmup_steps: int, max_steps: int) -> Callable[[int], float]:
    """The factor of the peak learning rate, as a function of the optimizer step (from 0).

    Args:
        schedule: constant, linear (to 0) or cosine (to a tenth), after the warm-up.
        warmup_steps: steps of linear warm-up; step 0 has factor 1 / warmup_steps.
        max_steps: step at which linear and cosine end; trainer.max_steps.

    Raises:
        ConfigError: if the schedule needs an end and max_steps is -1.
    """
    if schedule != "constant" and max_steps <= warmup_steps:
        raise ConfigError(
            f"schedule {schedule} with trainer.max_steps {max_steps} and warmup_steps {warmup_steps}",
            "max_steps greater than warmup_steps, since the schedule ends there",
            change="--trainer.max_steps or --model.optim.schedule constant",
        )

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant":
            return 1.0
        done = min(1.0, (step - warmup_steps) / (max_steps - warmup_steps))
        if schedule == "linear":
            return 1.0 - done
        return _COSINE_FLOOR + (1 - _COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * done))

    return factor
