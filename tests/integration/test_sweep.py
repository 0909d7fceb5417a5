"""A real `capo-sweep -m`: two jobs, of which one fails, and the saved config run again."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from tests.support.commands import capo
from tests.support.forked import REPO

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL = {
    "trainer.max_steps": 1,
    "trainer.val_check_interval": 1,
    "data.init_args.prompts_per_step": 2,
    "data.init_args.train.init_args.size": 16,
    "data.init_args.val.init_args.size": 4,
    "rollout.eval_samples": 1,
    "validate_first": "false",
    "rollout.engine.class_path": "capo_lit.engines.hf.HFEngine",
}
ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, initial: Path) -> Path:
    cwd = tmp_path_factory.mktemp("sweep")
    (cwd / "model").symlink_to(initial)
    small = [f"{key}={value}" for key, value in SMALL.items()]
    words = ["-m", "experiment=capo", "rollout.group_size=1,2", "policy=model", *small, "~rollout.engine.init_args"]
    words += ["hydra.sweep.dir=out"]
    script = Path(sys.executable).with_name("capo-sweep")
    done = subprocess.run([script, *words], cwd=cwd, env=ENV, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 1, done.stderr[-3000:]
    assert "2 jobs, 1 failed" in done.stdout
    return cwd


def test_the_table_says_why_a_job_failed_and_the_other_went_on(swept):
    failed, done = pq.read_table(swept / "out" / "summary.parquet").to_pylist()
    assert (failed["status"], done["status"]) == ("failed", "ok")
    assert "--rollout.group_size" in failed["error"]
    assert failed["val/avg_at_k"] is None
    assert 0 <= done["val/avg_at_k"] <= 1
    assert done["rollout_tokens"] > 0
    assert done["step"] == 1


def test_the_saved_config_runs_again_as_it_is_and_gives_the_same_weights(swept):
    capo(swept, "fit", "--config", "out/1/config.yaml")
    first, again = (load_file(swept / "out" / "1" / run / "policy" / "model.safetensors") for run in (".", "rerun"))
    assert all(first[name].equal(again[name]) for name in first)
