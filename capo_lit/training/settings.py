"""The settings of the policy's update. Their docstrings are the text of `capo fit --help`."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from capo_lit.core.errors import ConfigError
from capo_lit.core.loss import Aggregation

Schedule = Literal["constant", "linear", "cosine"]
_COSINE_FLOOR = 0.1


@dataclass
class OptimConfig:
    """AdamW, its schedule and gradient clipping. One step is one optimizer step.

    Args:
        lr: peak learning rate.
        weight_decay: of matrices; vectors (norms, biases) are never decayed.
        warmup_steps: optimizer steps of linear warm-up from 0.
        schedule: what follows the warm-up; linear falls to 0 and cosine to a tenth of lr, at trainer.max_steps.
        grad_clip: largest norm of the whole gradient; 0 switches clipping off.
    """

    lr: float = 1e-6
    weight_decay: float = 0.0
    warmup_steps: int = 0
    schedule: Schedule = "constant"
    grad_clip: float = 1.0


@dataclass
class LossConfig:
    """PPO-clip over tokens.

    Args:
        clip_low: the ratio is clipped below 1 - clip_low.
        clip_high: the ratio is clipped above 1 + clip_high.
        aggregation: token (sum over the optimizer step's tokens / their count), sequence (mean of row means) or
            dr_grpo (sum / (rows * sampling.max_tokens)).
        kl_coef: weight of the k3 KL divergence to the initial policy; 0 loads no reference model.
        importance_cap: cap of the truncated importance weight exp(trainer - engine logprob); null corrects nothing.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token"
    kl_coef: float = 0.0
    importance_cap: float | None = 2.0


@dataclass
class UpdateConfig:
    """How one batch of rollouts becomes optimizer steps.

    Args:
        epochs: passes over each batch of rollouts.
        minibatches: optimizer steps per pass; 1 x 1 needs no second forward for the old logprobs.
        tokens_per_microbatch: of one forward and backward: prompts, responses and padding. A prompt that is computed
            once for several rollouts counts once.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
    """

    epochs: int = 1
    minibatches: int = 1
    tokens_per_microbatch: int = 16384
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("epochs", "minibatches", "tokens_per_microbatch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}", "an integer >= 1", change=f"--model.update.{name}")


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
