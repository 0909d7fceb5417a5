"""RecordCallback: each step once, whatever was killed and resumed, and no file overwritten."""

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import ConfigError
from capo_lit.records.schema import file_name, read_records, record_files, settings_of, write_atomic
from capo_lit.records.table import batch_table
from capo_lit.training.callbacks import record
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.record import RecordCallback
from tests.support.finished_batch import make_batch


class Loader:
    """Yields finished batches and gives its position to the checkpoint."""

    def __init__(self, steps: int) -> None:
        self.steps, self.position = steps, 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[StepBatch]:
        while self.position < self.steps:
            self.position += 1
            yield make_batch(self.position - 1)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class Module(LightningModule):
    """One weight; dies at the end of `die_at` after its record was written, as a killed run does."""

    def __init__(self, die_at: int | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.die_at = die_at

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        optimizer.step()

    def on_train_batch_end(self, outputs: Any, batch: StepBatch, batch_idx: int) -> None:
        if batch.step == self.die_at:
            raise KeyError("killed")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def fit(root: Path, steps: int, callback: RecordCallback, die_at: int | None = None, resume: str | None = None) -> None:
    checkpoint = ModelCheckpoint(root / "checkpoints", filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        default_root_dir=root,
        callbacks=[callback, checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(die_at), Loader(steps), ckpt_path=resume, weights_only=False)


@pytest.mark.filterwarnings("ignore")
def test_a_killed_and_resumed_run_holds_each_step_once(tmp_path: Path) -> None:
    root = tmp_path / "myrun"
    # Checkpoints after 2 and 4 steps; killed at step 3, after its record and before the second checkpoint.
    with pytest.raises(KeyError, match="killed"):
        fit(root, 5, RecordCallback(), die_at=3)
    assert [file.step for file in record_files(root / "records")] == [0, 1, 2, 3]
    (root / "records" / ".step-00000004.parquet.77.tmp").touch()

    with pytest.raises(ConfigError, match=r"4 record files.*already holds records.*--ckpt_path last"):
        fit(root, 5, RecordCallback())
    assert [file.step for file in record_files(root / "records")] == [0, 1, 2, 3]

    fit(root, 5, RecordCallback(), resume=str(root / "checkpoints" / "step=2.ckpt"))
    table = read_records(root / "records", columns=["step", "row", "run"])
    assert table["step"].to_pylist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert set(table["run"].to_pylist()) == {"myrun"}
    superseded = root / "records-superseded-0"
    assert [file.step for file in record_files(superseded)] == [2, 3]
    assert list((root / "records").glob(".*")) == []


def test_a_second_predict_is_refused_before_anything_is_sampled(tmp_path: Path) -> None:
    trainer, batch = fake_trainer(tmp_path), make_batch(0)
    RecordCallback().setup(trainer, None, "predict")
    RecordCallback().on_predict_batch_end(trainer, None, None, batch, 0)
    with pytest.raises(ConfigError, match=r"predictions: got 1 file.*never overwritten"):
        RecordCallback().setup(trainer, None, "predict")
    RecordCallback().setup(trainer, None, "fit")


def test_a_dry_run_writes_no_record_and_moves_none(tmp_path: Path) -> None:
    fit(tmp_path, 2, RecordCallback())
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "records").rglob("*"))
    dry = Trainer(accelerator="cpu", fast_dev_run=1, default_root_dir=tmp_path, callbacks=[RecordCallback()],
                  logger=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    dry.fit(Module(), Loader(2))
    assert sorted(path.relative_to(tmp_path) for path in (tmp_path / "records").rglob("*")) == before
    dry = fake_trainer(tmp_path / "other")
    dry.fast_dev_run = True
    RecordCallback().on_predict_batch_end(dry, None, None, make_batch(0), 0)
    assert not (tmp_path / "other").exists()


def fake_trainer(root: Path, rank: int = 0, world_size: int = 1) -> Any:
    strategy = SimpleNamespace(barrier=lambda name: None)
    return SimpleNamespace(
        default_root_dir=str(root),
        ckpt_path=None,
        fast_dev_run=False,
        is_global_zero=rank == 0,
        global_rank=rank,
        world_size=world_size,
        strategy=strategy,
    )


def run_step(callback: RecordCallback, trainer: Any, batch: Any) -> None:
    callback.on_train_batch_start(trainer, None, batch, 0)
    callback.on_train_batch_end(trainer, None, None, batch, 0)


@pytest.mark.filterwarnings("ignore")
def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path) -> None:
    write_atomic(batch_table(make_batch(0), "killed"), tmp_path / "records" / file_name(0))
    callback = RecordCallback()
    callback.resume = True
    callback.on_train_start(fake_trainer(tmp_path), None)
    run_step(callback, fake_trainer(tmp_path), make_batch(0))
    run_step(callback, fake_trainer(tmp_path), make_batch(1))
    assert [file.step for file in record_files(tmp_path / "records")] == [0, 1]
    assert [file.step for file in record_files(tmp_path / "records-superseded-0")] == [0]


def test_a_second_fit_goes_on_after_its_own_records_and_never_over_them(tmp_path: Path) -> None:
    callback, trainer = RecordCallback(), fake_trainer(tmp_path)
    for step in (0, 1):
        callback.on_train_start(trainer, None)
        run_step(callback, trainer, make_batch(step))
    with pytest.raises(ConfigError, match="2 record files of step 0 or later"):
        RecordCallback().on_train_start(trainer, None)
    callback.on_train_start(trainer, None)
    with pytest.raises(ConfigError, match="1 record files of step 1 or later"):
        callback.on_train_batch_start(trainer, None, make_batch(1), 0)
    table = read_records(tmp_path / "records", columns=["step", "run"])
    assert table.to_pydict() == {"step": [0, 0, 1, 1], "run": [tmp_path.name] * 4}


def test_ranks_write_files_of_their_own(tmp_path: Path) -> None:
    for rank in (0, 1):
        run_step(RecordCallback(), fake_trainer(tmp_path, rank, world_size=1), object())  # no StepBatch: no record
    callbacks = [RecordCallback(), RecordCallback()]
    for rank, callback in enumerate(callbacks):
        callback.on_train_batch_start(fake_trainer(tmp_path, rank, 2), None, make_batch(), 0)
    for rank, callback in enumerate(callbacks):
        callback.on_train_batch_end(fake_trainer(tmp_path, rank, 2), None, None, make_batch(), 0)
    table = read_records(tmp_path / "records", columns=["rank", "row"])
    assert table.to_pydict() == {"rank": [0, 0, 1, 1], "row": [0, 1, 0, 1]}


def test_a_checkpoint_waits_until_the_records_before_it_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []

    def slow(*paths: Path) -> None:
        time.sleep(0.05)
        flushed.extend(paths)

    monkeypatch.setattr(record, "flush", slow)
    callback, trainer = RecordCallback(), fake_trainer(tmp_path)
    callback.on_train_start(trainer, None)
    for step in (0, 1):
        run_step(callback, trainer, make_batch(step))
    callback.on_save_checkpoint(trainer, None, {})
    records = tmp_path / "records"
    assert flushed == [records / file_name(0), records, records / file_name(1), records]

    def broken(*paths: Path) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(record, "flush", broken)
    run_step(callback, trainer, make_batch(2))
    with pytest.raises(OSError, match="disk gone"):
        callback.on_save_checkpoint(trainer, None, {})


def test_a_file_names_the_settings_that_its_credit_was_computed_under(tmp_path: Path) -> None:
    module = Module()
    module.credit = CreditConfig(w_whole=1.5, w_process=0.5, estimator="sequence")  # type: ignore[assignment]
    judged = CritiqueCallback(cast(Any, SimpleNamespace(vote="union", k=3)))
    found = record._settings(cast(Any, SimpleNamespace(callbacks=[judged])), module)
    assert found is not None
    assert (found["w_whole"], found["w_process"], found["estimator"]) == (1.5, 0.5, "sequence")
    assert (found["vote"], found["k"]) == ("union", 3)
    write_atomic(batch_table(make_batch(4), "toy", settings=found), tmp_path / file_name(4))
    assert settings_of(read_records(tmp_path)) == [{"run": "toy", "step": 4, **found}]
