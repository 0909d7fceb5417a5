"""What a run is refused for before anything is loaded: settings of the Trainer, the seed, folders to write into."""

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from capo_lit.core.errors import ConfigError

_FP16 = ("16", "16-mixed", "16-true", "transformer-engine-float16")
_STEP = "--data.prompts_per_step for a larger step"
# Of the commands that only evaluate.
_LIMITS = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}

Refused = Callable[[Any], bool]
# Settings of the Trainer that would train on wrong numbers, or that this project has a setting of its own for:
# (name, when it is refused, what is expected, what to change).
_REFUSED: tuple[tuple[str, Refused, str, str], ...] = (
    (
        "accumulate_grad_batches",
        lambda value: value not in (None, 1),
        "1, since one batch of rollouts is one step, whose gradient is accumulated over micro-batches already",
        f"{_STEP}, --model.update.tokens_per_microbatch for less memory",
    ),
    (
        "gradient_clip_val",
        lambda value: value is not None,
        "null, since the module clips its gradient itself",
        "--model.optim.grad_clip",
    ),
    (
        "gradient_clip_algorithm",
        lambda value: value not in (None, "norm"),
        "norm, the only way in which gradients are clipped",
        "--trainer.gradient_clip_algorithm, and --model.optim.grad_clip for the limit",
    ),
    (
        "enable_checkpointing",
        lambda value: value is False,
        "true, since checkpoints are what a killed run goes on from",
        "--trainer.enable_checkpointing, and --checkpoint.every_n_steps for fewer of them",
    ),
    (
        "barebones",
        lambda value: value is True,
        "false, since it forbids the loggers and callbacks that a run consists of",
        "--trainer.barebones",
    ),
    (
        "precision",
        lambda value: str(value) in _FP16,
        "32-true or bf16-mixed: in float16 the gradient is clipped before it is unscaled",
        "--trainer.precision",
    ),
    (
        "strategy",
        lambda value: any(word in str(value).lower() for word in ("fsdp", "deepspeed", "xla")),
        "ddp, or lightning.pytorch.strategies.ModelParallelStrategy, which shards the policy (FSDP2)",
        "--trainer.strategy, as configs/hardware/gpu8_fsdp.yaml has it",
    ),
    (
        "overfit_batches",
        lambda value: value not in (None, 0),
        "0, since every epoch goes on to other batches",
        "--trainer.overfit_batches, and --data.train (its limit or size) for few problems",
    ),
    (
        "reload_dataloaders_every_n_epochs",
        lambda value: value not in (None, 0),
        "0, since a new loader starts again at step 0",
        "--trainer.reload_dataloaders_every_n_epochs",
    ),
)


def check_trainer(settings: Mapping[str, Any], stage: str | None = None) -> None:
    """Refuse settings of the Trainer that Lightning would refuse late or not at all.

    Args:
        settings: of the Trainer, by name.
        stage: fit, validate, test or predict; null if it is not known yet.

    Raises:
        ConfigError: for the first that is refused.
    """
    for name, refused, expected, change in _REFUSED:
        if name in settings and refused(settings[name]):
            raise ConfigError(f"trainer.{name} {settings[name]!r}", expected, change=change)
    limit = _LIMITS.get(stage or "", "")
    if limit and settings.get(limit) == 0:
        raise ConfigError(f"trainer.{limit} 0 in capo {stage}", "at least one batch", change=f"--trainer.{limit}")


def check_seed(seed: Any) -> None:
    """Refuse what is no seed.

    Raises:
        ConfigError: if it is no integer in [0, 2**32).
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed {seed!r}", "an integer in [0, 4294967295]", change="--seed_everything")


def check_folders(folders: Mapping[str, str | Path]) -> None:
    """Make the folders that a run writes into, so that one that cannot be written fails now and not at its end.

    Args:
        folders: by the setting that names them.

    Raises:
        ConfigError: for the first that cannot be made, or not be written into.
    """
    for setting, folder in folders.items():
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ConfigError(
                f"{folder}, which cannot be written into ({error.strerror or error})",
                "a folder that can be made and written into",
                change=f"--{setting}",
            ) from error
