"""`capo` on a small model with the engine of this process: dry runs, checkpoints by name, and one-line refusals."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from capo_lit.arithmetic.model import write_initial_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

REPO = Path(__file__).resolve().parents[2]
SMALL = """
trainer: {max_steps: 2, val_check_interval: 2, default_root_dir: run}
data:
  init_args:
    prompts_per_step: 2
    train: {init_args: {size: 8}}
    val: {init_args: {size: 2}}
    test: {init_args: {size: 2}}
rollout:
  engine: {class_path: capo_lit.engines.hf.HFEngine, init_args: {dtype: float32}}
  group_size: 2
  sampling: {max_tokens: 6}
  eval_samples: 1
  eval_sampling: {max_tokens: 6}
checkpoint: {every_n_steps: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dry")
    write_initial_model(path / "initial", seed=1)
    (path / "small.yaml").write_text(SMALL)
    return path


def capo(folder, command, *flags):
    files = ["--config", str(REPO / "configs" / "quickstart.yaml"), "--config", "small.yaml", "--policy", "./initial"]
    done = subprocess.run(
        [sys.executable, "-m", "capo_lit.cli", command, *files, *flags],
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return done


def test_a_dry_run_leaves_nothing_and_the_run_after_it_is_not_refused(folder):
    before = sorted(folder.rglob("*"))
    dry = capo(folder, "fit", "--trainer.fast_dev_run", "1")
    assert dry.returncode == 0, dry.stderr[-2000:]
    assert sorted(folder.rglob("*")) == before
    assert capo(folder, "fit").returncode == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for command in ("fit", "test", "predict"):
        assert capo(folder, command, "--trainer.fast_dev_run", "2").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == after

    shown = capo(folder, "validate", "--ckpt_path", "best")
    assert shown.returncode == 0
    assert "policy_version: 2" in shown.stdout
    refused = (
        ("validate", "--ckpt_path", "last", "--trainer.default_root_dir", "empty"),
        ("test", "--data.test", "null"),
        ("predict", "--data.test", "null"),
        ("fit", "--ckpt_path", "nope.ckpt"),
        ("fit", "--trainer.default_root_dir", "small.yaml/run"),
    )
    for command, *flags in refused:
        done = capo(folder, command, *flags)
        assert done.returncode == 1
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("capo: ")]
        assert flags[0] in line
        assert done.stderr.splitlines()[-1] == line
