"""The trainer's side of weights in files: a folder that holds one version, and nothing of runs that are no more."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import psutil
import torch

from capo_lit.core.errors import EngineError

# As much as is written at once and held in memory beside the weights, bytes.
CHUNK = 2**30
_MEMORY = Path("/dev/shm")
_PREFIX = "capo-weights"


@dataclass(frozen=True, slots=True)
class Pushed:
    """One version of the weights, as a server is told of it.

    Attributes:
        stamp: its name.
        paths: of the files; None where they do not travel by files.
    """

    stamp: str
    paths: tuple[str, ...] | None = None


class WeightFolder:
    """A folder of its own in `parent`, with the files of the version that was pushed last.

    They stay until the next push is over, for a server that is started anew.

    Args:
        parent: that servers see too; None is this machine's memory.
    """

    def __init__(self, parent: str | Path | None) -> None:
        base = Path(parent) if parent is not None else _MEMORY if _MEMORY.is_dir() else Path(tempfile.gettempdir())
        base = base.absolute()
        try:
            base.mkdir(parents=True, exist_ok=True)
            _remove_left(base)
            self.path = base / f"{_PREFIX}-{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
            self.path.mkdir()
        except OSError as error:
            raise EngineError(f"{error}", "a folder for weights", str(base), "transfer") from error

    def write(self, named_tensors: Iterable[tuple[str, torch.Tensor]], stamp: str) -> Pushed:
        """Write a version beside the last one.

        Raises:
            EngineError: if the disk, or the memory, has no room.
        """
        from safetensors.torch import save_file

        version = self.path / stamp.replace(":", "-")
        paths: list[str] = []
        try:
            version.mkdir()
            for chunk in _chunks(named_tensors):
                paths.append(str(version / f"{len(paths):05d}.safetensors"))
                save_file(chunk, paths[-1])
        except (OSError, RuntimeError) as error:  # safetensors' own errors are RuntimeErrors
            raise EngineError(f"{error}", "room for two versions of the weights", str(self.path), "transfer") from error
        return Pushed(stamp, tuple(paths))

    def keep(self, weights: Pushed) -> None:
        """Remove all other versions, when no server needs them any more."""
        kept = {Path(path).parent for path in weights.paths or ()}
        for old in self.path.iterdir():
            if old not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)


def _chunks(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[dict[str, torch.Tensor]]:
    chunk: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in named_tensors:
        chunk[name] = tensor.contiguous().cpu()
        size += tensor.nbytes
        if size >= CHUNK:
            yield chunk
            chunk, size = {}, 0
    if chunk:
        yield chunk


def _remove_left(base: Path) -> None:
    """Remove the folders of this machine's processes that are no more: weights are large, and a kill leaves them."""
    own = f"{_PREFIX}-{socket.gethostname()}-"
    for folder in base.glob(f"{own}*"):
        pid = folder.name.removeprefix(own).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
