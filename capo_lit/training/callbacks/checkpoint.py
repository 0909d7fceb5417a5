"""Checkpoints that a kill at any moment leaves whole, and finding the newest one."""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from capo_lit.core.errors import ConfigError, one_line
from capo_lit.evaluation.names import spec

_NAME = re.compile(r"step=(\d+)\.ckpt")
_SHARDED = ("meta.pt", ".metadata")  # one of these is in a checkpoint that is a folder


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, then renames: a checkpoint is there whole or not at all.

    Lightning's own way goes through the system's temporary folder, from where the file is copied, not renamed, when
    that is another file system.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Save `checkpoint` at the local `path`."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(target)
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load what `save_checkpoint` saved.

        Raises:
            ConfigError: if the file is damaged, or no checkpoint of a Trainer.
        """
        if Path(path).is_dir():
            raise ConfigError(
                f"checkpoint {str(path)!r}, a folder of shards",
                "a single file, unless the policy is sharded over processes",
                change="--trainer.strategy ModelParallelStrategy, or make a file of it with "
                "`python -m lightning.pytorch.utilities.consolidate_checkpoint FOLDER`",
            )
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
            reason = one_line(error).split(". ")[0]  # what follows is advice about pickles
            raise _no_checkpoint(path, f"which does not load ({reason[:300]})") from error
        if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
            raise _no_checkpoint(path, "which holds no state of a run")
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint; of a folder nothing is left that looks like one, even if this is interrupted."""
        target = Path(path)
        if target.is_dir():
            target = target.rename(_partial(target))
            shutil.rmtree(target)
        else:
            super().remove_checkpoint(path)


def _partial(target: Path) -> Path:
    """Where a checkpoint lies while it is no whole one: such names are never loaded, and removed at the next fit."""
    return target.with_name(f".{target.name}.partial-{os.getpid()}")


class _InRunFolder(ModelCheckpoint):
    """Checkpoints in a folder of the run, named by Lightning's count of optimizer steps."""

    folder: str

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Settle the directory; it must not depend on a logger's version, or a resumed run would look elsewhere."""
        if self.dirpath is None:
            self.dirpath = os.path.join(trainer.default_root_dir, self.folder)
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for partial in Path(self.dirpath).glob(".*.ckpt.partial-*"):  # of a run that was killed while it saved
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()
        super().setup(trainer, pl_module, stage)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        """Save; a sharded policy goes into a folder of many files, which gets its name when all are on the disk."""
        if not isinstance(trainer.strategy, ModelParallelStrategy):
            super()._save_checkpoint(trainer, filepath)
            return
        target = Path(filepath)
        partial = _partial(target)
        super()._save_checkpoint(trainer, str(partial))  # ends when every process has written its part
        if trainer.is_global_zero:
            _put_in_place(partial, target)
        trainer.strategy.barrier("checkpoint")
        self._last_checkpoint_saved = filepath

    def _monitor_candidates(self, trainer: Trainer) -> dict[str, torch.Tensor]:
        # A module may log a metric named "step", as the loggers' x-axis; the newest checkpoint is Lightning's count.
        return {**super()._monitor_candidates(trainer), "step": torch.tensor(trainer.global_step)}


class RunCheckpoint(_InRunFolder):
    """Saves everything a run needs to go on bit-identically: weights, optimizer, counters, loader position.

    In `checkpoints` under trainer.default_root_dir.

    Args:
        every_n_steps: optimizer steps between checkpoints; one is also saved at the end.
        keep: newest checkpoints kept.
    """

    folder = "checkpoints"

    def __init__(self, every_n_steps: int = 10, keep: int = 2) -> None:
        if keep < 1 or every_n_steps < 1:
            raise ConfigError(f"every_n_steps {every_n_steps}, keep {keep}", "integers >= 1", change="--checkpoint")
        super().__init__(
            filename="step={step}",
            monitor="step",
            mode="max",
            save_top_k=keep,
            every_n_train_steps=every_n_steps,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end of the run, if the last interval did not fall on it."""
        super().on_train_end(trainer, pl_module)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.global_step != self._last_global_step_saved and trainer.global_step > 0:
            self._save_checkpoint(trainer, os.path.join(str(self.dirpath), f"step={trainer.global_step}.ckpt"))


class BestCheckpoint(_InRunFolder):
    """Keeps the checkpoint of the best evaluation so far, beside those that a run resumes from.

    In `best` under trainer.default_root_dir.

    Args:
        monitor: metric of the evaluations, such as val/avg_at_k; null keeps none. Its definition says whether the
            largest value is the best, or the smallest.
    """

    folder = "best"

    def __init__(self, monitor: str | None = "val/avg_at_k") -> None:
        if monitor is not None and not monitor.startswith("val/"):
            raise ConfigError(f"monitor {monitor!r}", "a metric of the evaluations, val/...", change="--best.monitor")
        super().__init__(
            filename="step={step}",
            monitor=monitor,
            mode=spec(monitor).best if monitor else "max",
            save_top_k=1 if monitor else 0,
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
        )


def _put_in_place(partial: Path, target: Path) -> None:
    """Flush a file or a folder to disk, and rename it; what has the name already makes way."""
    for path in [*partial.iterdir(), partial] if partial.is_dir() else [partial]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    if target.is_dir():
        shutil.rmtree(target.rename(target.with_name(f"{partial.name}-old")))
    os.replace(partial, target)


def latest_checkpoint(directory: Path) -> Path | None:
    """The checkpoint of the highest step in a directory, or None if it holds none."""
    found = [(int(match[1]), path) for path in directory.glob("*.ckpt") if (match := _NAME.fullmatch(path.name))]
    return max(found)[1] if found else None


def resolve_checkpoint(word: str | None, folders: Mapping[str, Path], may_start: bool) -> str | Path | None:
    """The checkpoint that --ckpt_path means.

    Args:
        word: last, best, the path of a checkpoint, or null for none.
        folders: where the newest checkpoint is `last` and `best`.
        may_start: whether a run without a checkpoint may start from its beginning where `last` is asked for.

    Returns:
        Its path, or None for none.

    Raises:
        ConfigError: if there is no such checkpoint.
    """
    if word is None or "://" in str(word) or word == "hpc":  # another file system's, or a cluster's
        return word
    if word in folders:
        found = latest_checkpoint(folders[word])
        if found is None and not (may_start and word == "last"):
            raise ConfigError(
                f"--ckpt_path {word}, and no checkpoint in {folders[word]}",
                "one, as capo fit leaves there",
                change="--trainer.default_root_dir (of the run), or --ckpt_path FILE; without it --policy is measured",
            )
        return found
    path = Path(word)
    if path.is_file() or (path.is_dir() and any((path / name).exists() for name in _SHARDED)):
        return word
    got = "a folder" if path.is_dir() else "which does not exist"
    raise ConfigError(
        f"checkpoint {word!r}, {got}",
        "last, best, or a file such as RUN/checkpoints/step=10.ckpt",
        change="--ckpt_path (the folder of an exported policy is --policy)",
    )


def _no_checkpoint(path: Any, reason: str) -> ConfigError:
    return ConfigError(f"checkpoint {str(path)!r}, {reason}", "one that capo fit wrote", change="--ckpt_path")
