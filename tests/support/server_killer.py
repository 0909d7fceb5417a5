"""Deaths of real rollout servers at chosen moments."""

import os
import signal
from typing import Any

import psutil
from lightning.pytorch import Callback, Trainer

from capo_lit.engines.servers import VLLMServers, control
from capo_lit.engines.servers.fleet import Member


def processes(member: Member) -> list[psutil.Process]:
    """A server's processes: the guard, vLLM's first, the engine's, the workers'."""
    assert member.own is not None
    assert member.own._process is not None
    leader = psutil.Process(member.own._process.pid)
    return [leader, *leader.children(recursive=True)]


def kill(member: Member, place: int) -> list[psutil.Process]:
    """Kill one of a server's processes with SIGKILL; all that it had, to see whether they go."""
    found = processes(member)
    os.kill(found[place].pid, signal.SIGKILL)
    return found


class KillServers(Callback):
    """Kills vLLM's first process of one server while a step is sampled, and the worker of the other during a push.

    Attributes:
        victims: the processes of the servers that were hit.
        hits: what was done.
    """

    def __init__(self, engine: VLLMServers, monkeypatch: Any, in_step: int, in_push: int) -> None:
        self.engine, self.in_step, self.in_push = engine, in_step, in_push
        self.victims: list[psutil.Process] = []
        self.hits: list[str] = []
        self.step = -1
        monkeypatch.setattr(engine, "step", self._stepping(engine.step))
        monkeypatch.setattr("capo_lit.engines.servers.fleet.load_files", self._loading)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.step = batch.step

    def _stepping(self, step: Any) -> Any:
        def stepped(timeout_s: float = 1.0) -> None:
            victim = self.engine.fleet.members[0]
            if self.step == self.in_step and "step" not in self.hits and victim.server.outstanding:
                self.hits.append("step")
                self.victims += kill(victim, 1)
            step(timeout_s)

        return stepped

    async def _loading(self, server: Any, paths: Any, stamp: str, limit_s: float) -> None:
        victim = self.engine.fleet.members[1]
        if stamp.endswith(f":{self.in_push}") and server is victim.server and "push" not in self.hits:
            await control.call(server, "/pause?mode=abort", {}, limit_s)
            await control.call(server, "/init_weight_transfer_engine", {"init_info": {}}, limit_s)
            await control.start_update(server, limit_s)
            self.hits.append("push")
            self.victims += kill(victim, -1)
        await control.load_files(server, paths, stamp, limit_s)
