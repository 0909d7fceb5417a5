"""What `make` runs, beside what CI calls: the demo and the fast tests."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def make(*words: str) -> str:
    """Run make in this environment instead of .venv; returns what it printed."""
    # What this process was told by pytest's own workers is not for others.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "MAKE"))}
    command = ["make", "--old-file=setup", f"BIN={BIN}", *words]
    done = subprocess.run(command, cwd=REPO, env=env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.nightly
def test_the_demo_goes_from_random_weights_to_its_table(tmp_path: Path) -> None:
    root, arms = tmp_path / "run", ("CAPO judge", "CAPO rule", "GRPO")
    told = make("demo", f"ARGS=--steps 2 --root {root}")
    rows = json.loads((root / "summary.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["start", *arms]
    assert all(row["tokens"] > 0 for row in rows[1:])
    assert all(name in told for name in arms)
    assert (root / "curves.png").read_bytes().startswith(b"\x89PNG")
    for name in arms:
        folder = root / name.lower().replace(" ", "_")
        assert len(list((folder / "records").glob("step-*.parquet"))) == 2
        assert (folder / "policy" / "config.json").is_file()


@pytest.mark.nightly
def test_the_fast_tests_are_most_tests_and_no_slow_one() -> None:
    listed = make("test-fast", "ARGS=--collect-only").splitlines()
    tests = [line for line in listed if "::" in line]
    assert len(tests) > 1000
    assert not [line for line in tests if line.startswith(("tests/integration", "tests/parity"))]


@pytest.mark.nightly
def test_the_night_runs_documents_and_plants_faults() -> None:
    listed = make("nightly", "--old-file=browser", "ARGS=--collect-only")
    for name in ("test_docs_run", "test_howto_run", "test_mutations", "test_notebooks"):
        assert f"tests/integration/{name}.py::" in listed


def test_check_is_what_ci_runs() -> None:
    assert make("--dry-run", "check") == make("--dry-run", "lint", "types", "test")


@pytest.mark.nightly
def test_the_gpu_check_is_whole(tmp_path: Path) -> None:
    told = make("gpu-check", f"PYTHON={sys.executable}", f"ARGS=--cpu --out {tmp_path}")
    table = json.loads((tmp_path / "table.json").read_text())
    assert set(table) == {"rule", "own-judge", "adapters"}
    for run in table.values():
        assert run["engine - trainer logprob, max"] < 1e-4  # float32 on both sides
        assert run["tokens/s sampled"] > 0
    assert "planned at most, GiB" in told
