"""A policy in shards over two processes, trained for some epochs on the same rollouts, with checkpoints."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy

from capo_lit.training.callbacks.checkpoint import AtomicCheckpointIO, RunCheckpoint
from capo_lit.training.loading import loading_deferred
from tests.support.invariance import Groups, build, make_batch, whole

MODES = ("shards", "one file")


class Epochs:
    """The same rollouts in a new batch every epoch."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups

    def __iter__(self):
        return iter([make_batch(self.groups)])

    def __len__(self) -> int:
        return 1


def sharded(mode: str = "shards") -> ModelParallelStrategy:
    """FSDP2 over both processes."""
    return ModelParallelStrategy(2, 1, save_distributed_checkpoint=mode == "shards")


def trained(policy: str, groups: Groups, root: Path, mode: str, ckpt: Path | None = None) -> dict[str, Any]:
    """Weights, Adam's moments and the names of checkpoints after 6 updates, of which every second one was saved."""
    with loading_deferred():
        module = build(policy, "token", 50)
    trainer = Trainer(
        default_root_dir=root, devices=2, strategy=sharded(mode), plugins=[AtomicCheckpointIO()], max_epochs=3,
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[RunCheckpoint(every_n_steps=2, keep=2)], use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, Epochs(groups), ckpt_path=ckpt, weights_only=True if ckpt else None)
    moments = [whole(m) for state in trainer.optimizers[0].state.values() for m in state.values()]
    folder = root / "checkpoints"
    found = {path.name: path.is_dir() for path in folder.iterdir()}
    return {"weights": module.weights(), "moments": moments, "found": found, "version": module.version}
