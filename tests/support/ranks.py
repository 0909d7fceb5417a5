"""Two data-parallel processes on this machine, started, watched and ended."""

import socket
import time
from collections.abc import Callable
from typing import Any

import torch.multiprocessing as mp

from tests.support import forked


def run_two(worker: Callable[..., None], *args: Any, deadline_s: float = 240) -> None:
    """Run worker(rank, port, *args) in two processes; ranks that wait for each other fail at the deadline."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    forked.serve()
    context = mp.start_processes(worker, args=(port, *args), nprocs=2, join=False, start_method="forkserver")
    until = time.monotonic() + deadline_s
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < until, "the ranks wait for each other"
    finally:
        for process in context.processes:
            process.kill()
