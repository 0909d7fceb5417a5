"""A callback that keeps the ledger of a judge, over resumptions and over processes."""

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from capo_lit.evaluation.cost import RUN, Ledger


class LedgerCallback(Callback):
    """Saves the ledger of all processes: a checkpoint has their sum, which the first process goes on with.

    The others go on from nothing, so that the sum over processes stays the run's, however many there are.

    Attributes:
        ledger: what judges took, as far as this process knows it.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()

    def state_dict(self) -> dict[str, float]:
        """This process's part of the ledger."""
        return dict(self.ledger.total)

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        """Go on with the ledger of the run that is resumed."""
        self.ledger.total = {name: float(state_dict.get(name, 0.0)) for name in RUN}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put the sum over processes in the place of this one's part; every process saves, though one writes."""
        strategy = trainer.strategy
        own = torch.tensor([self.ledger.total[name] for name in RUN], dtype=torch.float64, device=strategy.root_device)
        total = strategy.reduce(own, reduce_op="sum")
        checkpoint["callbacks"][self.state_key] = dict(zip(RUN, total.tolist(), strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Leave the sum to the first process."""
        if not trainer.is_global_zero and self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key] = {}
