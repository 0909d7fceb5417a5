"""The server's side of weights in files: it lives in vLLM's own processes, and loads what it is told to.

The trainer's side is files.py. Both see one folder, in memory on one machine or on a disk that machines share.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from capo_lit.engines.vllm_process import repack


@dataclass
class FileInit(WeightTransferInitInfo):
    """Nothing is agreed on beforehand: every update names its file."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """One file of the new weights.

    Attributes:
        path: of a safetensors file, whose names are those of the Hugging Face model.
    """

    path: str


class FileReceiver(WeightTransferEngine[FileInit, FileUpdate]):
    """Loads weights from files, into the storage that the running model has."""

    init_info_cls, update_info_cls = FileInit, FileUpdate

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """Make room layer by layer: from here to the finish the model cannot compute."""
        from vllm.model_executor.model_loader.reload.layerwise import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one file; vLLM's own way would wait for an accelerator that a CPU has not."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load one file.

        Raises:
            FileNotFoundError: if this machine does not see it.
        """
        from safetensors import safe_open

        if not Path(update_info.path).is_file():
            raise FileNotFoundError(f"no {update_info.path} on this machine: servers and trainer must share the folder")
        model: Any = self.model
        with safe_open(update_info.path, "pt") as file:
            model.load_weights((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118

    def finish_weight_update(self) -> None:
        """Put the new weights where the old ones were, packed copies of a CPU's included."""
        from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)  # type: ignore[no-untyped-call]
        if self.device.type == "cpu":
            repack(self.model)

    def shutdown(self) -> None:
        """Nothing to close."""
