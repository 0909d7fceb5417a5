"""`capo` in this process, whose imports are done: starting Python with its libraries takes longer than a small run."""

import io
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from capo_lit.cli import main

# What an untrained model answers is seldom a number, and each of a verifier's two workers takes seconds to start.
ONE_WORKER: dict[str, object] = {"rollout.verifier": "capo_lit.verifier.Verifier", "rollout.verifier.workers": 1}


class Told(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def call(cwd: Path, *words: str) -> Told:
    """Run `capo WORDS...` in a folder."""
    out, err = io.StringIO(), io.StringIO()
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err):
        status = main(words)
    return Told(status, out.getvalue(), err.getvalue())


def flags(settings: dict[str, object]) -> list[str]:
    """Settings as the words of a command."""
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def capo(cwd: Path, *words: str, **settings: object) -> str:
    """Run `capo WORDS... --SETTING VALUE...` to its end; returns all that it said."""
    told = call(cwd, *words, *flags(settings))
    assert told.status == 0, told.err[-3000:]
    return told.out + told.err
