"""Runs `capo fit` in a process of its own: nothing of one run, its engine's memory included, is left for the next."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_AGAIN = "---- started again ----"
_OURS, _ANY_ERROR = re.compile("capo: "), re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")


def fit_process(words: Sequence[str], log: Path | None = None, small: bool = True) -> tuple[int, float]:
    """Run `capo fit WORDS...` and wait for its end.

    Args:
        words: arguments after `fit`.
        log: file that takes its output, after that of earlier starts; None shows it.
        small: the model is not worth a second thread, unless the user has set OMP_NUM_THREADS.

    Returns:
        Exit status, and wall time in seconds.
    """
    env = {**({"OMP_NUM_THREADS": "1"} if small else {}), **os.environ}
    command = [sys.executable, "-m", "capo_lit.cli", "fit", *words]
    started = time.monotonic()
    if log is None:
        status = subprocess.run(command, check=False, env=env).returncode
    else:
        with log.open("a") as file:
            if file.tell():
                file.write(f"{_AGAIN}\n")
                file.flush()
            status = subprocess.run(command, check=False, env=env, stdout=file, stderr=subprocess.STDOUT).returncode
    return status, time.monotonic() - started


def last_error(log: Path) -> str:
    """The last line of a log's last start that tells an error, one of `capo` before others, or its last line."""
    last_start = log.read_text(errors="replace").rpartition(_AGAIN)[2]
    lines = [line.strip() for line in last_start.splitlines() if line.strip()]
    ours, errors = ([line for line in lines if kind.match(line)] for kind in (_OURS, _ANY_ERROR))
    return (ours or errors or lines or ["no output"])[-1]
