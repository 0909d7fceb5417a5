"""Folders that cost something to make, made once in a test run, whichever of pytest's workers needs them first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, which no test changes.

    Args:
        factory: of this worker; all workers' folders have one parent.
        name: unique among the tests.
        make: fills an empty folder. If it fails the next that asks tries again, in a new one.

    Returns:
        The folder, with all that `make` wrote.
    """
    root = factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
