"""What slow tests share: a vLLM engine for each process, runs that were killed or not, a browser and its page."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.engines.base import as_completed
from capo_lit.engines.vllm import VLLMEngine
from tests.support.browser import Browser
from tests.support.killed import command, end, killed_at
from tests.support.process_world import world
from tests.support.shared import shared
from tests.support.tiny_llama import MAX_LEN, build, requests
from tests.support.viewer_page import page_of
from tests.support.viewer_world import small_run


@pytest.fixture(scope="session")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "words_llama", build)


@pytest.fixture(scope="session")
def changes() -> dict[str, tuple[object, object]]:
    """What starting the engine changed; filled by the fixture below."""
    return {}


@pytest.fixture(scope="session")
def running(path: Path, changes: dict[str, tuple[object, object]]) -> Iterator[VLLMEngine]:
    torch.manual_seed(3)
    engine = VLLMEngine(str(path), dtype="float32", max_model_len=MAX_LEN, max_num_seqs=16, kv_cache_gib=0.1)
    before = world()
    (warm,) = as_completed(engine, requests(1, tokens=2))
    assert warm.version is None
    after = world()
    changes.update({name: (before[name], after[name]) for name in before if before[name] != after[name]})
    yield engine
    engine.close()


@pytest.fixture
def model(path: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path).eval()


@pytest.fixture
def engine(running: VLLMEngine, model: LlamaForCausalLM) -> VLLMEngine:
    """The module's engine with the weights of the checkpoint, as version 0."""
    running.load_weights(model.named_parameters(), version=0)
    return running


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a small run."""
    return page_of(small_run(tmp_path_factory.mktemp("small")))


@pytest.fixture
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened
        assert opened.errors == []


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory, initial: Path) -> Path:
    """A run of the command from its first step to its last."""
    return shared(tmp_path_factory, "untouched", lambda cwd: end(command(cwd / "run", initial), cwd)) / "run"


@pytest.fixture(scope="session")
def resumed(tmp_path_factory: pytest.TempPathFactory, initial: Path) -> Path:
    """The same, killed when a checkpoint is written and not yet in its place, and resumed from the one before."""

    def make(cwd: Path) -> None:
        killed_at("checkpoint", 5, command(cwd / "run", initial), cwd)
        end(command(cwd / "run", initial, "--ckpt_path", "last"), cwd)

    return shared(tmp_path_factory, "resumed", make) / "run"
