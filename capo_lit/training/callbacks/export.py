"""Saves the trained policy as a Hugging Face directory, so that any engine or a next run can load it."""

import os
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info


class ExportCallback(Callback):
    """Writes weights and tokenizer to `policy` under trainer.default_root_dir at the end of a fit.

    An earlier export there is replaced. A dry run (trainer.fast_dev_run) writes nothing.
    """

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Export on the first rank; readers see the old directory or the new one, nothing between."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        from transformers import AutoTokenizer

        target = Path(trainer.default_root_dir) / "policy"
        partial, old = (target.with_name(f".{target.name}.{word}-{os.getpid()}") for word in ("partial", "old"))
        pl_module.export(partial)
        if not trainer.is_global_zero:
            return
        AutoTokenizer.from_pretrained(pl_module.policy_path).save_pretrained(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        rank_zero_info(f"policy of version {pl_module.version} exported to {target}")
