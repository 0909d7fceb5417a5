"""Writes one record file per training step; see records/schema.py for what stands in it."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.records.schema import file_name, flush, record_files, remove_leftovers, set_aside, write_atomic
from capo_lit.records.table import batch_table
from capo_lit.training.callbacks.critique import CritiqueCallback


class RecordCallback(Callback):
    """Records every rollout of every training step, each step once.

    A resumed run goes back to its checkpoint and repeats the steps after it. Their records are first moved to
    <directory>-superseded-<n>, so that none is lost and none stands twice. A run that is not resumed refuses a
    directory that holds records. Waiting for the disk takes longer than all the rest: it is done beside the next step,
    and is over before a checkpoint is written, so that none ever lies before its records. A dry run
    (trainer.fast_dev_run) makes the same rows and writes none.

    The files go to records in trainer.default_root_dir, whose name is that of the run in every row.

    Attributes:
        resume: set to True before fit where records of a killed run may be there, even if it left no checkpoint.
    """

    def __init__(self) -> None:
        self.resume = False
        self._opened = False
        self._wrote = False
        self._disk = ThreadPoolExecutor(1, "records")
        self._flushing: list[Future[None]] = []

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse to predict where predictions are already, before anything is sampled."""
        directory = self._predictions(trainer)
        if stage == "predict" and not trainer.fast_dev_run and record_files(directory):  # type: ignore[attr-defined]
            raise ConfigError(
                f"{len(record_files(directory))} file(s) of predictions",
                "none: predictions are never overwritten",
                str(directory),
                "move that folder away, or choose another --trainer.default_root_dir",
            )

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Refuse another run's records before anything is generated."""
        self._opened = bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # a dry run needs no room
        if self._opened:
            return
        # A second fit of the same Trainer goes on after records of its own; then the first batch decides.
        if not self._wrote and not self._resumed(trainer):
            self._refuse(trainer, first_step=0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """At the first batch of a fit, make room for its step and those after it."""
        if self._opened or not isinstance(batch, StepBatch):
            return
        if not self._resumed(trainer):
            self._refuse(trainer, batch.step)
        directory = self._directory(trainer)
        if trainer.is_global_zero:
            remove_leftovers(directory)
            aside = set_aside(directory, batch.step)
            if aside is not None:
                rank_zero_warn(f"records of step {batch.step} and later, of a run that did not end, are in {aside}")
        trainer.strategy.barrier("records")
        self._opened = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write the step's file."""
        if not isinstance(batch, StepBatch):
            return
        batch.require_credit()
        self._write(trainer, batch, self._directory(trainer), _settings(trainer, pl_module))
        self._wrote = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Wait until all records are on the disk."""
        self._wait()

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Wait until all records are on the disk."""
        self._wait()

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: StepBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Write the solutions of `capo predict`, to `predictions` beside the records."""
        self._write(trainer, batch, self._predictions(trainer))

    def _write(
        self, trainer: Trainer, batch: StepBatch, directory: Path, settings: dict[str, Any] | None = None
    ) -> None:
        run = Path(trainer.default_root_dir).resolve().name
        name = file_name(batch.step, trainer.global_rank, trainer.world_size)
        table = batch_table(batch, run, trainer.global_rank, settings)
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        write_atomic(table, directory / name)
        self._flushing.append(self._disk.submit(flush, directory / name, directory))

    def _wait(self) -> None:
        flushing, self._flushing = self._flushing, []
        for future in flushing:
            future.result()  # a disk that failed says so here

    def _resumed(self, trainer: Trainer) -> bool:
        return self.resume or trainer.ckpt_path is not None

    def _directory(self, trainer: Trainer) -> Path:
        return Path(trainer.default_root_dir) / "records"

    def _predictions(self, trainer: Trainer) -> Path:
        return self._directory(trainer).with_name("predictions")

    def _refuse(self, trainer: Trainer, first_step: int) -> None:
        files = [file for file in record_files(self._directory(trainer)) if file.step >= first_step]
        if files:
            raise ConfigError(
                f"{len(files)} record files of step {first_step} or later",
                "none: the directory already holds records",
                str(self._directory(trainer)),
                "resume with --ckpt_path last or choose another --trainer.default_root_dir",
            )


def _settings(trainer: Trainer, pl_module: Any) -> dict[str, Any] | None:
    """What the credit of this step was computed under, for a replay that is to give the same; null if it had none."""
    if not hasattr(pl_module, "credit"):
        return None
    credit = asdict(pl_module.credit)
    if hasattr(pl_module, "ppo"):  # its advantages are a value model's, which no replay has
        credit["estimator"] = None
    judges = [one.judge for one in trainer.callbacks if isinstance(one, CritiqueCallback)]  # type: ignore[attr-defined]
    judge = judges[0] if judges else None
    votes = {"vote": getattr(judge, "vote", None), "k": getattr(judge, "k", None)}
    return {**credit, **votes}
