"""A vLLM server that is ours: its command line, its processes, its log."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import torch

from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.servers import guard
from capo_lit.engines.servers.files import WeightFolder

# What launchers of the trainer's processes set, and a server would take for its own; and what engines in this process
# set for themselves.
_TRAINERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "ROLE_RANK")
_OTHERS = ("MASTER_ADDR", "MASTER_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING", "VLLM_LOGGING_LEVEL")
_LOG_TAIL = 1500
_CPU_BLOCK = 32  # as in engines/vllm.py


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What our servers are started with; see VLLMServers."""

    model: str
    dtype: str
    max_model_len: int
    max_num_seqs: int
    kv_cache_gib: float
    gpu_memory_utilization: float
    backend: str

    def words(self, port: int, gpus: str | None) -> list[str]:
        """The command line of one server.

        Args:
            port: on loopback.
            gpus: its GPUs by number ("4,5"), over which the model is split; None on a CPU.
        """
        values: dict[str, object] = {
            "model": self.model,
            "host": "127.0.0.1",
            "port": port,
            "dtype": self.dtype,
            "max-model-len": self.max_model_len,
            "max-num-seqs": self.max_num_seqs,
            "seed": 0,
            "logprobs-mode": "processed_logprobs",
            "generation-config": "vllm",  # nothing of the model's own is laid over what a request asks for
            "weight-transfer-config": f'{{"backend": "{self.backend}"}}',
            "uvicorn-log-level": "warning",
        }
        flags = ["--enable-scale-out", "--enable-prefix-caching", "--enable-prompt-tokens-details"]
        if gpus is None:
            values |= {"block-size": _CPU_BLOCK, "kv-cache-memory-bytes": int(self.kv_cache_gib * 2**30)}
            flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
        else:
            values |= {
                "gpu-memory-utilization": self.gpu_memory_utilization,
                "tensor-parallel-size": len(gpus.split(",")),
            }
        module = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        return [*module, *flags, *(word for name, value in values.items() for word in (f"--{name}", str(value)))]


class OwnServer:
    """The processes of one server on this machine; they end when it is stopped, and when this process ends.

    Args:
        settings: of all our servers.
        place: 0 for the first of them.
        count: how many share this machine's cores.
        gpus: see ServerSettings.words.
        folder: of the weights, removed when this process has died; None where they need none.
        log: file that its output is added to.
    """

    def __init__(
        self, settings: ServerSettings, place: int, count: int, gpus: str | None, folder: Path | None, log: Path
    ) -> None:
        self._settings, self._gpus, self._folder, self.log = settings, gpus, folder, log
        self._threads = max(1, (os.cpu_count() or 1) // count)
        # Kept over restarts, so that those who know the address need not be told.
        self.port = _free_port()
        self.name = f"server {place} ({self.url}, log {log})"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether its processes are there; it may not answer yet, or not any more."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start its processes, after ending what is left of earlier ones.

        Raises:
            EngineError: if capo_lit's plugin would be missing in them.
        """
        self.stop()
        _check_plugin()
        command = self._settings.words(self.port, self._gpus)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, guard.__file__, str(os.getpid()), str(self._folder or ""), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(),
                start_new_session=True,
            )

    def stop(self) -> None:
        """Kill all of its processes."""
        process, self._process = self._process, None
        if process is not None:
            # Its own group, which outlives its leader.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_bytes()[-_LOG_TAIL:].decode("utf-8", "replace") if self.log.exists() else ""

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in (*_TRAINERS, *_OTHERS)}
        kept = {name: value for name, value in kept.items() if not name.startswith("TORCHELASTIC_")}
        own = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        if plugins := kept.get("VLLM_PLUGINS"):
            own["VLLM_PLUGINS"] = f"{plugins},capo_lit"
        if self._gpus is None:
            # vLLM would bind the threads of every server to the same cores.
            own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(self._threads)}
        else:
            own["CUDA_VISIBLE_DEVICES"] = self._gpus
        return kept | own


def own_servers(
    settings: ServerSettings, gpus: Sequence[str | None], files: WeightFolder | None, logs: Path | None
) -> list[OwnServer]:
    """One server for each entry of `gpus`; their logs go to `logs`, by default to the system's temporary folder."""
    folder = logs or Path(tempfile.gettempdir()) / f"capo-servers-{os.getpid()}"
    weights = files.path if files is not None else None
    return [
        OwnServer(settings, place, len(gpus), one, weights, folder / f"server-{place}.log")
        for place, one in enumerate(gpus)
    ]


def gpus_of(servers: int, gpus: list[str] | None) -> list[str | None]:
    """The GPUs of each server of ours.

    Raises:
        ConfigError: if there are GPUs, and it is not said which are whose; or none, and it is.
    """
    there = torch.cuda.is_available()
    if not there and gpus is None:
        return [None] * servers
    if not there or gpus is None or len(gpus) != servers:
        raise ConfigError(
            f"{servers} servers with gpus {gpus} on a machine {'with' if there else 'without'} GPUs",
            "the GPUs of every server on a machine that has them, such as ['6', '7']; null on one without",
            "vllm servers",
            "gpus (those that the trainer leaves free: --trainer.devices), or servers",
        )
    return list(gpus)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _check_plugin() -> None:
    if "capo_lit" not in {point.name for point in entry_points(group="vllm.general_plugins")}:
        raise EngineError(
            "an installation of capo_lit without its vLLM plugin",
            "an entry point capo_lit of vllm.general_plugins, by which servers load weights from files",
            "vllm servers",
            "install capo_lit again: pip install --no-deps -e . (make setup)",
        )
