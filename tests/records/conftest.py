"""What several unit tests share."""

import pytest

from capo_lit.records.inspect import Rollouts, load
from tests.support.shipped_runs import DATA


@pytest.fixture(scope="module")
def runs() -> Rollouts:
    """The two runs that the notebooks read: 8 steps of 8 prompts, 8 samples each; grpo has no judge."""
    return load(DATA / "capo", DATA / "grpo")
