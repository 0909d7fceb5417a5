"""One tiny Llama and one TRL trainer for all parity tests; what TRL does to the process is undone after them."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity import trl_world
from tests.parity.fixed import MAX_LENGTH, Fixed, build
from tests.support import tiny_llama


@pytest.fixture(scope="package")
def trl() -> Iterator[None]:
    """TRL, imported; its trainer sets environment variables and the global seeds."""
    environment, python, drawn = dict(os.environ), random.getstate(), np.random.get_state()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        # TRL would import vLLM, of a version it does not know, and change the process for the tests that follow.
        patch.setitem(sys.modules, "vllm", None)
        from trl import GRPOTrainer  # noqa: F401

        patch.undo()
        yield
    random.setstate(python)
    np.random.set_state(drawn)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parity")
    tiny_llama.build(path)
    return path


@pytest.fixture(scope="package")
def trainer(trl: None, folder: Path) -> Any:
    """TRL's trainer for its loss alone; MAX_LENGTH is what dr_grpo divides by."""
    return trl_world.make_trainer(folder, max_completion_length=MAX_LENGTH)


@pytest.fixture(scope="package")
def fixed() -> Fixed:
    return build()
