"""The first page of the documents, run from top to bottom, with fewer steps; it really trains, for some minutes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_blocks import REPO, commands

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STEPS = {"trainer.max_steps": 2, "trainer.val_check_interval": 2}


def shorter(words: tuple[str, ...]) -> list[str]:
    """A command of the page with two training steps, and with one seed where it has several."""
    if words[0] == "capo-sweep":
        one = [word.split(",")[0] if word.startswith("seed=") else word for word in words]
        return [*one, *(f"{key}={value}" for key, value in STEPS.items())]
    flags = [word for key, value in STEPS.items() for word in (f"--{key}", str(value))]
    return [*words, *flags] if words[:2] == ("capo", "fit") else list(words)


def test_getting_started_runs_from_top_to_bottom(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    (tmp_path / "configs").symlink_to(REPO / "configs")
    page = commands(REPO / "docs" / "getting-started.md")
    runnable = [command.words for command in page if not command.needs_gpu and "--help" not in command.words]
    assert len(runnable) > 10
    for words in map(shorter, runnable):
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stderr[-3000:]}"
    assert (tmp_path / "capo.html").is_file()
    assert (tmp_path / "report" / "index.md").is_file()
