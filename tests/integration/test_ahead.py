"""Sampling one step ahead, by the real command: the lag is one step whatever the timing, and a resume is exact."""

from pathlib import Path

import pytest

from capo_lit.records.schema import read_records
from tests.support.killed import STEPS, assert_same_run, command, end, killed_at
from tests.support.shared import shared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
AHEAD = ("--rollout.engine", "tests.support.beside_engine.BesideEngine", "--rollout.ahead", "1")
JITTER = ("--rollout.engine.init_args.pause_s", "0.02")


def fit(root: Path, model: Path, *extra: str) -> list[str]:
    return command(root, model, *AHEAD, *extra)


@pytest.fixture(scope="module")
def ahead(tmp_path_factory: pytest.TempPathFactory, initial: Path) -> Path:
    """A run of the command from its first step to its last, with validations and checkpoints on the way."""
    return shared(tmp_path_factory, "ahead", lambda cwd: end(fit(cwd / "run", initial), cwd)) / "run"


def test_every_step_but_the_first_trains_on_weights_one_step_old(ahead: Path):
    rows = read_records(ahead / "records").to_pylist()
    assert {(row["step"], row["policy_version"]) for row in rows} == {(s, max(0, s - 1)) for s in range(STEPS)}


def test_killed_and_resumed_with_another_timing_it_ends_bit_identical(ahead: Path, initial: Path, tmp_path: Path):
    words = fit(tmp_path / "run", initial, *JITTER, "--ckpt_path", "last")
    killed_at("update", 5, words, tmp_path)  # steps 4 and 5 are repeated; 4 was sampled before the checkpoint
    end(words, tmp_path)
    assert list((tmp_path / "run").glob("records-superseded-*"))
    assert_same_run(ahead, tmp_path / "run")


@pytest.mark.nightly
@pytest.mark.parametrize(("phase", "step"), [("critique", 3), ("backward", 4), ("checkpoint", 6), ("record", 7)])
def test_killed_in_any_phase_and_resumed_it_ends_bit_identical(
    ahead: Path, initial: Path, tmp_path: Path, phase: str, step: int
):
    words = fit(tmp_path / "run", initial, *JITTER, "--ckpt_path", "last")
    killed_at(phase, step, words, tmp_path)  # type: ignore[arg-type]
    end(words, tmp_path)
    assert_same_run(ahead, tmp_path / "run")
