"""What runs in the verifier's worker processes: math-verify under a memory limit, in a process that may be killed."""

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import context, spawn
from typing import Any

from capo_lit.verify_answer import Answer

_MEGABYTE = 1 << 20
_starting = threading.local()
_prepare: Callable[[str], dict[str, Any]] = spawn.get_preparation_data


def _prepare_without_main(name: str) -> dict[str, Any]:
    data = _prepare(name)
    if getattr(_starting, "worker", False):
        data.pop("init_main_from_name", None)
        data.pop("init_main_from_path", None)
    return data


class _WorkerProcess(context.SpawnProcess):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802  (the standard library's name)
        _starting.worker = True
        try:
            return context.SpawnProcess._Popen(process_obj)
        finally:
            _starting.worker = False


class WorkerContext(context.SpawnContext):
    """Spawned processes that do not import the caller's main module.

    An ordinary spawned process runs the main script again. A worker needs nothing from it, and without this a script
    with no `if __name__ == "__main__"` guard, or read from standard input, could not use the verifier; a training
    script would import torch in every worker.
    """

    Process = _WorkerProcess

    def __init__(self) -> None:
        super().__init__()
        spawn.get_preparation_data = _prepare_without_main


def start_worker(memory_mb: int) -> None:
    """Import math-verify, do one comparison to warm it up, then limit the memory that answers may take.

    Args:
        memory_mb: address space beyond what the warm worker uses, MiB.
    """
    # The pool's own handler runs between two bytecodes, so never inside one big power: let the kernel end the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # Parsers write their complaints about bad LaTeX to the terminal of the training run.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    compare(r"\frac{1}{2}+x", Answer(r"x+\frac{2}{4}", prose=False))
    _limit_memory(memory_mb)


def judge(gold: str, answer: Answer, backstop_s: int) -> bool:
    """Compare under a backstop: the kernel ends this process after `backstop_s` even if its parent is gone.

    Args:
        gold: the gold answer.
        answer: the final answer of the response.
        backstop_s: seconds, longer than the deadline that the parent keeps.

    Raises:
        MemoryError: if the comparison needs more memory than it may take.
    """
    signal.alarm(backstop_s)
    try:
        return compare(gold, answer)
    finally:
        signal.alarm(0)


def compare(gold: str, answer: Answer) -> bool:
    """Whether math-verify finds the two equal; a text that it cannot read equals nothing."""
    from math_verify import parse, verify

    # Its own timeouts are off (they use signal.alarm, and cannot end one big power): the pool's deadline counts.
    parsed = []
    for text in (_boxed(gold), answer.text if answer.prose else _boxed(answer.text)):
        try:
            parsed.append(parse(text, parsing_timeout=None, raise_on_error=True))
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  (whatever its parsers raise on hostile text means: not readable)
            return False
    return bool(verify(*parsed, timeout_seconds=None, raise_on_error=True))


def _boxed(text: str) -> str:
    return "\\boxed{" + text.replace("\\$", "").replace("$", "") + "}"


def _limit_memory(memory_mb: int) -> None:
    if sys.platform != "linux":  # elsewhere the limit is not kept by the kernel; the deadline still is
        return
    import resource

    import psutil

    limit = psutil.Process().memory_info().vms + memory_mb * _MEGABYTE
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    with contextlib.suppress(ValueError):  # a stricter limit is already in force
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
