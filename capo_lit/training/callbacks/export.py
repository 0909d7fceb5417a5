"""Saves the trained policy as a Hugging Face directory, so that any engine or a next run can load it."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info


class ExportCallback(Callback):
    """Writes weights and tokenizer at the end of a fit.

    Args:
        dirpath: where; the default is `policy` under trainer.default_root_dir. An earlier export there is replaced.
        enabled: false writes nothing; nor does a dry run (trainer.fast_dev_run).
    """

    def __init__(self, dirpath: str | None = None, enabled: bool = True) -> None:
        self.dirpath, self.enabled = dirpath, enabled

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Export on the first rank; readers see the old directory or the new one, nothing between."""
        if not self.enabled or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        from transformers import AutoTokenizer

        target = Path(self.dirpath or Path(trainer.default_root_dir) / "policy")
        partial, old = (target.with_name(f".{target.name}.{word}-{os.getpid()}") for word in ("partial", "old"))
        pl_module.export(partial)
        AutoTokenizer.from_pretrained(pl_module.policy_path).save_pretrained(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        rank_zero_info(f"policy of version {pl_module.version} exported to {target}")
