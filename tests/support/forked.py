"""Processes of a test, forked from one whose imports are done: importing Lightning and vLLM outlasts their work.

The server that forks them has imported and done nothing else. What it starts has no engine, thread or random state of
the test's process, dies of signals like any process, and has an exit status of its own.
"""

import os
import traceback
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
CONTEXT = get_context("forkserver")


def serve() -> None:
    """Start the server unless it runs. Its processes have one thread each: a test has two of them, or two cores."""
    CONTEXT.set_forkserver_preload(["tests.support.imports"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("PYTHONPATH", str(REPO))
        forkserver.ensure_running()


def _inside(run: Callable[..., int | None], words: object, cwd: Path, env: dict[str, str]) -> None:
    with (cwd / "log.txt").open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    os.chdir(cwd)
    os.environ |= env
    os.setsid()
    try:
        status = run(words)
    except Exception:  # noqa: BLE001  (told and counted as a process of its own would)
        traceback.print_exc()
        status = 1
    raise SystemExit(status)


def start(run: Callable[..., int | None], words: object, cwd: Path, **env: str) -> BaseProcess:
    """A process that calls run(words) in a folder, in a session of its own; what it says goes to `cwd`/log.txt."""
    serve()
    process = CONTEXT.Process(target=_inside, args=(run, words, cwd, env))
    process.start()
    return process


def status(process: BaseProcess, limit_s: float) -> int:
    """Wait for the end: an exit status, or minus a signal's number. What outlives its limit is killed and an error."""
    try:
        process.join(limit_s)
        found = process.exitcode
    finally:
        process.kill()
        process.join()
    assert found is not None, f"no end within {limit_s} s"
    return found


def capo(words: list[str]) -> int:
    """`capo WORDS...`, to be started."""
    from capo_lit.cli import main

    return main(words)


def script(code: str) -> None:
    """A script's text, to be started."""
    exec(compile(code, "script", "exec"), {"__name__": "__main__"})
