"""What every test runs under: no network, checked tensor shapes in the core, one hypothesis profile."""

import os
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest
from hypothesis import settings

from tests.support.shared import shared

# Before any import that reads them: a test that needs a hub must fail at once, here as on a machine that has one.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ[name] = "1"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the capo command does

# Before the first import of the core: from here on every annotated shape and dtype of its maths is checked at run
# time. Not of what engines call too: the checker draws from the global random state, which engines must leave alone.
CORE = Path(__file__).resolve().parents[1] / "capo_lit" / "core"
PLAIN = ("__init__", "errors", "lazy", "seeding")
MATHS = [f"capo_lit.core.{path.stem}" for path in CORE.glob("*.py") if path.stem not in PLAIN]
MATHS.append("examples.ppo.gae")
jaxtyping.install_import_hook(MATHS, "beartype.beartype")

# Derandomized: a run on another day tries the same cases, and a failure is never a surprise of the day.
settings.register_profile("default", deadline=None, max_examples=40, derandomize=True, database=None)
settings.register_profile("mutation", parent=settings.get_profile("default"), max_examples=12)
settings.register_profile("quick", parent=settings.get_profile("mutation"))  # of make test-fast
settings.load_profile(os.environ.get("CAPO_HYPOTHESIS_PROFILE", "default"))

INTEGRATION = Path(__file__).parent / "integration"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: the many short ones after them leave no worker without work at the end."""
    items.sort(key=lambda item: INTEGRATION not in item.path.parents)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """The core as users run it, without run-time type checks: for tests of its own errors on wrong arguments."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in arithmetic's model before any training, with its tokenizer."""
    from capo_lit.arithmetic.model import write_initial_model

    return shared(tmp_path_factory, "initial", lambda folder: write_initial_model(folder / "model", seed=1)) / "model"
