"""Weights over NCCL: from the trainer's first process into the servers' GPUs, without a disk.

vLLM's own trainer engine sends; what is here tells all servers at once what it tells one, and gives it the tensors.
"""

import socket
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from vllm.distributed.weight_transfer.base import ParamMeta, TrainerWeightTransferEngine, WeightSource
from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

from capo_lit.core.errors import EngineError
from capo_lit.engines.http.protocol import AttemptError
from capo_lit.engines.http.servers import Server, is_loopback
from capo_lit.engines.http.session import Session
from capo_lit.engines.servers.control import call, finish_update, start_update


class _Servers:
    """What vLLM's trainer engine takes for its client: every call goes to all servers, and waits for all."""

    def __init__(self, session: Session, servers: Sequence[Server], sizes: Sequence[int], limit_s: float) -> None:
        self._session, self._servers, self._sizes, self._limit_s = session, servers, sizes, limit_s
        self.stamp = ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the group; each server's workers come after those of the servers before it."""
        offsets = [init_info["rank_offset"] + sum(self._sizes[:place]) for place in range(len(self._sizes))]
        bodies = [{"init_info": {**init_info, "rank_offset": offset}} for offset in offsets]
        self._all(
            [self._post(s, "/init_weight_transfer_engine", b) for s, b in zip(self._servers, bodies, strict=True)]
        )

    def start_weight_update(self) -> None:
        """Pause, and open an update."""
        self._all([self._post(server, "/pause?mode=abort", {}) for server in self._servers])
        self._all([self._session.spawn(start_update(server, self._limit_s)) for server in self._servers])

    def update_weights(self, update_info: Any) -> None:
        """Receive, while the trainer sends."""
        self._all([self._post(server, "/update_weights", {"update_info": update_info}) for server in self._servers])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the update and go on; the name of the weights is `stamp`."""
        self._all([self._session.spawn(finish_update(s, self.stamp, self._limit_s)) for s in self._servers])

    def _post(self, server: Server, path: str, body: dict[str, Any]) -> "Future[Any]":
        return self._session.spawn(call(server, path, body, self._limit_s))

    def _all(self, futures: "Sequence[Future[Any]]") -> None:
        for future in futures:
            future.result(self._limit_s + 5)


class _Source(WeightSource):
    """The tensors of one push, under names and shapes that are known before."""

    def __init__(self, metadata: list[ParamMeta]) -> None:
        self._metadata = metadata
        self.tensors: Iterable[tuple[str, torch.Tensor]] = ()

    def metadata(self) -> list[ParamMeta]:
        """Names, dtypes and shapes, in the order of the tensors."""
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return iter(self.tensors)


class NcclSender:
    """Sends weights to servers; a group that a server has left is made anew.

    Args:
        session: the engine's.
        shell: the model, for names and shapes of its parameters, in the order in which they come.
        dtype: in which they come.
        limit_s: deadline of a push, seconds.
    """

    def __init__(self, session: Session, shell: torch.nn.Module, dtype: torch.dtype, limit_s: float) -> None:
        metadata = [ParamMeta(name, dtype, tuple(one.shape)) for name, one in shell.named_parameters()]
        self._session, self._source, self._limit_s = session, _Source(metadata), limit_s
        self._group: tuple[TrainerWeightTransferEngine[Any], _Servers, list[object]] | None = None

    def send(
        self,
        servers: Sequence[Server],
        marks: list[object],
        named_tensors: Iterable[tuple[str, torch.Tensor]],
        stamp: str,
    ) -> None:
        """Replace the weights of all servers.

        Args:
            servers: that are up.
            marks: one for every start of a server: where they have changed, the group is made anew.
            named_tensors: on this process's GPU, in the order of the metadata.
            stamp: what the weights are to be called.

        Raises:
            EngineError: if it fails or takes too long. A broadcast that hangs cannot be ended: the run is over.
        """
        worker = ThreadPoolExecutor(1, "nccl push")
        device = torch.cuda.current_device()
        try:
            worker.submit(self._send, servers, marks, named_tensors, stamp, device).result(self._limit_s)
        except (AttemptError, TimeoutError, RuntimeError, ValueError) as error:
            self._group = None
            said = error.said if isinstance(error, AttemptError) else f"{type(error).__name__}: {error}"
            raise EngineError(
                f"a push over nccl that failed: {said}",
                f"one within {self._limit_s:g} s",
                "vllm servers",
                "resume the run (--ckpt_path last), or take files (transfer null)",
            ) from error
        finally:
            worker.shutdown(wait=False)

    def _send(
        self,
        servers: Sequence[Server],
        marks: list[object],
        named_tensors: Iterable[tuple[str, torch.Tensor]],
        stamp: str,
        device: int,
    ) -> None:
        torch.cuda.set_device(device)
        with torch.no_grad():
            if self._group is None or self._group[2] != marks:
                self._group = self._join(servers, marks)
            engine, client, _ = self._group
            client.stamp, self._source.tensors = stamp, named_tensors
            engine.send_weights()

    def _join(
        self, servers: Sequence[Server], marks: list[object]
    ) -> tuple[TrainerWeightTransferEngine[Any], _Servers, list[object]]:
        if self._group is not None:
            self._group[0].shutdown()
        sizes = [int(self._ask(server, "/get_world_size")["world_size"]) for server in servers]
        for server in servers:
            self._session.spawn(call(server, "/shutdown_weight_transfer_engine", {})).result(self._limit_s)
        client = _Servers(self._session, servers, sizes, self._limit_s)
        here = all(is_loopback(server.url) for server in servers)
        address = "127.0.0.1" if here else socket.gethostbyname(socket.gethostname())
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        info = NCCLTrainerInitInfo(address, port, 1 + sum(sizes), rank=0)
        engine = WeightTransferTrainerFactory.trainer_init(info, client=client, source=self._source)
        return engine, client, marks

    def _ask(self, server: Server, path: str) -> Any:
        return self._session.spawn(call(server, path)).result(self._limit_s)
