"""Kill -9 a real run again and again, resume it, and compare it with the run that was left alone."""

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from capo_lit.arithmetic.model import write_initial_model
from capo_lit.records.schema import read_records
from capo_lit.training.callbacks.checkpoint import latest_checkpoint

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
STEPS, EVERY, PER_STEP = 9, 2, 16
RUN_LIMIT_S = 240
# Each resumes from the last checkpoint before it: 2 steps are lost at most.
KILLS = [("rollout", 1), ("critique", 3), ("backward", 4), ("checkpoint", 5), ("record", 6), ("update", 7)]


def command(root: Path, model: Path, *extra: str) -> list[str]:
    settings = {
        "policy": model,
        "trainer.default_root_dir": root,
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 3,
        "validate_first": "false",
        "checkpoint.every_n_steps": EVERY,
        "data.prompts_per_step": 4,
        "data.train.size": 24,  # six steps an epoch: the runs below cross into the second
        "data.val.size": 8,
        "rollout.group_size": 4,
        "rollout.eval_samples": 2,
        "critique.judge.k": 3,
        "critique.judge.vote": "majority",
        "critique.judge.false_positive": 0.2,
        "critique.judge.false_negative": 0.2,
    }
    config = str(REPO / "configs" / "quickstart.yaml")
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "capo_lit.cli", "fit", "--config", config, *flags, *extra]


def run(words: list[str], cwd: Path) -> int:
    with (cwd / "log.txt").open("ab") as log:
        return subprocess.run(words, cwd=cwd, env=ENV, stdout=log, stderr=log, timeout=RUN_LIMIT_S).returncode


def weights_of(root: Path) -> str:
    return hashlib.sha256((root / "policy" / "model.safetensors").read_bytes()).hexdigest()


def final_state(root: Path) -> dict:
    found = latest_checkpoint(root / "checkpoints")
    assert found is not None
    assert found.name == f"step={STEPS}.ckpt"
    return torch.load(found, weights_only=True)


def flat(value, path=""):
    """Leaves of nested state, by path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from flat(item, f"{path}/{index}")
    else:
        yield path, value


def assert_same_run(left: Path, right: Path) -> None:
    assert weights_of(left) == weights_of(right)
    mine, other = final_state(left), final_state(right)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        for (path, a), (other_path, b) in zip(flat(mine[part]), flat(other[part]), strict=True):
            assert path == other_path
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{part}{path}"
    rows = [read_records(root / "records").to_pylist() for root in (left, right)]
    keys = [[(row["step"], row["row"]) for row in table] for table in rows]
    assert sorted(keys[0]) == sorted(keys[1]) == [(step, row) for step in range(STEPS) for row in range(PER_STEP)]
    for name in ("response_ids", "advantages", "step_error", "policy_version"):
        by_key = [{(row["step"], row["row"]): row[name] for row in table} for table in rows]
        assert by_key[0] == by_key[1], name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_initial_model(tmp_path_factory.mktemp("model") / "initial", seed=1)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory, model):
    cwd = tmp_path_factory.mktemp("untouched")
    assert run(command(cwd / "run", model), cwd) == 0, (cwd / "log.txt").read_text()[-3000:]
    return cwd / "run"


@pytest.mark.timeout(1200)
def test_killed_in_every_phase_and_resumed_it_ends_bit_identical(tmp_path, model, untouched):
    for phase, step in KILLS:
        killer = {"class_path": "tests.support.killer.KillAt", "init_args": {"phase": phase, "step": step}}
        overlay = tmp_path / "kill.yaml"
        overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [killer]}}))
        words = command(tmp_path / "run", model, "--config", str(overlay), "--ckpt_path", "last")
        assert run(words, tmp_path) == -signal.SIGKILL, f"{phase}: {(tmp_path / 'log.txt').read_text()[-3000:]}"
    assert run(command(tmp_path / "run", model, "--ckpt_path", "last"), tmp_path) == 0
    assert_same_run(untouched, tmp_path / "run")
    assert list((tmp_path / "run").glob("records-superseded-*")), "no step was ever repeated: the kills came late"


@pytest.mark.timeout(1200)
def test_killed_from_outside_at_random_moments(tmp_path, model, untouched):
    rng = random.Random(20)
    words = command(tmp_path / "run", model, "--ckpt_path", "last")
    for _ in range(2):
        with (tmp_path / "log.txt").open("ab") as log:
            process = subprocess.Popen(words, cwd=tmp_path, env=ENV, stdout=log, stderr=log)
        deadline = time.monotonic() + RUN_LIMIT_S
        before = len(list((tmp_path / "run" / "records").glob("step-*.parquet")))
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((tmp_path / "run" / "records").glob("step-*.parquet"))) > before:
                break
            time.sleep(0.02)
        time.sleep(rng.random() * 0.6)
        process.kill()
        process.wait()
    assert run(words, tmp_path) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert_same_run(untouched, tmp_path / "run")
