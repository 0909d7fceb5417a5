"""Kill -9 a real run, resume it, and compare it with the run that was left alone."""

import random
import time
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.killed import RUN_LIMIT_S, assert_same_run, command, end, killed_at

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

# Each resumes from the last checkpoint before it: 2 steps are lost at most.
KILLS = [("rollout", 1), ("critique", 3), ("backward", 4), ("checkpoint", 5), ("record", 6), ("update", 7)]


def test_killed_while_it_writes_a_checkpoint_and_resumed_it_ends_bit_identical(untouched: Path, resumed: Path) -> None:
    assert_same_run(untouched, resumed)
    assert list(resumed.glob("records-superseded-*")), "no step was ever repeated: the kill came late"


@pytest.mark.nightly
def test_killed_in_every_phase_and_resumed_it_ends_bit_identical(
    tmp_path: Path, initial: Path, untouched: Path
) -> None:
    words = command(tmp_path / "run", initial, "--ckpt_path", "last")
    for phase, step in KILLS:
        killed_at(phase, step, words, tmp_path)
    end(words, tmp_path)
    assert_same_run(untouched, tmp_path / "run")


@pytest.mark.nightly
def test_killed_from_outside_at_random_moments(tmp_path: Path, initial: Path, untouched: Path) -> None:
    rng = random.Random(20)
    words = command(tmp_path / "run", initial, "--ckpt_path", "last")
    for _ in range(2):
        process = forked.start(forked.capo, words, tmp_path)
        deadline = time.monotonic() + RUN_LIMIT_S
        before = len(list((tmp_path / "run" / "records").glob("step-*.parquet")))
        while process.is_alive() and time.monotonic() < deadline:
            if len(list((tmp_path / "run" / "records").glob("step-*.parquet"))) > before:
                break
            time.sleep(0.02)
        time.sleep(rng.random() * 0.6)
        process.kill()
        process.join()
    end(words, tmp_path)
    assert_same_run(untouched, tmp_path / "run")
