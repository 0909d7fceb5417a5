"""A fit on the built-in arithmetic with lm-eval every n steps: it trains as without, and resumes exactly."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from capo_lit.arithmetic.model import write_initial_model
from capo_lit.records.results import read_result
from tests.integration.test_resume import REPO, RUN_LIMIT_S, command, weights_of

pytestmark = pytest.mark.slow

TASK_DIR = str(REPO / "tests" / "support" / "lm_eval_tasks")


def fit(cwd: Path, words: list[str], lm_eval: dict[str, Any], *callbacks: dict[str, Any]) -> int:
    overlay = cwd / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"lm_eval": lm_eval, "trainer": {"callbacks": list(callbacks)}}))
    env = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    with (cwd / "log.txt").open("ab") as log:
        words = [*words, "--config", str(overlay), "--ckpt_path", "last"]
        return subprocess.run(words, cwd=cwd, env=env, stdout=log, stderr=log, timeout=RUN_LIMIT_S).returncode


def logged(root: Path) -> dict[float, dict[str, float]]:
    """The lm-eval metrics of a run by optimizer step, over all its parts."""
    rows: dict[float, dict[str, float]] = {}
    for file in sorted(root.glob("csv/*/metrics.csv")):
        lines = [line.split(",") for line in file.read_text().splitlines()]
        for line in lines[1:]:
            row = dict(zip(lines[0], line, strict=True))
            values = {name: float(value) for name, value in row.items() if name.startswith("val/lm_eval/") and value}
            if values:
                rows[float(row["step"])] = values
    return rows


@pytest.mark.timeout(1200)
def test_a_fit_with_lm_eval_every_n_steps_trains_as_without_and_resumes_exactly(
    tmp_path: Path,
    model: Path,
) -> None:
    start = write_initial_model(tmp_path / "initial", seed=1)
    evaluating = {"tasks": ["test_steps", "test_step_choice"], "task_dir": TASK_DIR, "every_n_steps": 3}
    killing = {"class_path": "tests.support.killer.KillAt", "init_args": {"phase": "update", "step": 7}}
    runs = {name: tmp_path / name for name in ("without", "whole", "resumed")}
    for folder in runs.values():
        folder.mkdir()
    commands = {name: command(folder / "run", start) for name, folder in runs.items()}
    assert fit(runs["without"], commands["without"], {}) == 0
    assert fit(runs["whole"], commands["whole"], evaluating) == 0, (runs["whole"] / "log.txt").read_text()[-3000:]
    assert fit(runs["resumed"], commands["resumed"], evaluating, killing) == -signal.SIGKILL
    assert fit(runs["resumed"], commands["resumed"], evaluating) == 0
    assert len({weights_of(folder / "run") for folder in runs.values()}) == 1
    found = {name: logged(folder / "run") for name, folder in runs.items()}
    assert found["without"] == {}
    assert list(found["whole"]) == [3.0, 6.0, 9.0]
    assert set(found["whole"][3.0]) == {
        "val/lm_eval/test_steps/avg_at_k", "val/lm_eval/test_steps/pass_at_k",
        "val/lm_eval/test_steps/unknown_frac", "val/lm_eval/test_step_choice/acc",
    }  # fmt: skip
    assert found["resumed"][9.0] == found["whole"][9.0]
    values, manifest = read_result(runs["whole"] / "run" / "results" / "val-step=9.json")
    assert {name: values[name] for name in found["whole"][9.0]} == found["whole"][9.0]
    assert set(manifest["lm_eval"]["tasks"]) == {"test_steps", "test_step_choice"}
