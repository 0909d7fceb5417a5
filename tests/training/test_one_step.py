"""The first file that a newcomer reads: it is short, it runs, and it does what CapoModule does."""

import importlib.util
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from capo_lit.training.loading import load_policy
from tests.support.doc_blocks import REPO

FILE = REPO / "examples" / "one_step.py"


def test_one_step_by_hand_trains_the_policy_and_leaves_a_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("one_step", FILE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    loaded = []
    monkeypatch.setattr(example, "load_policy", lambda path: loaded.append(load_policy(path)) or loaded[0])
    seen = example.main(tmp_path)
    assert seen["ratio_mean"] == 1.0  # the logprobs are those of the very forward
    assert seen["importance_mean"] == pytest.approx(1.0, abs=1e-4)  # engine and trainer are one policy
    rows = pq.read_table(tmp_path / "record.parquet")
    assert rows.num_rows == 32
    assert {len(critiques) for critiques in rows["critiques"].to_pylist()} <= {0, 4}
    rewards = {reward for row in rows["token_rewards"].to_pylist() for reward in row}
    assert rewards <= {2.0, 1.0, 0.0, -1.0}
    assert {0.0, -1.0} <= rewards  # the end token of a wrong answer, and a wrong step
    before = load_policy(str(tmp_path / "policy"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), loaded[0].parameters(), strict=True)]
    assert all(moved)


def test_it_has_under_60_lines() -> None:
    assert len(FILE.read_text(encoding="utf-8").splitlines()) < 60
