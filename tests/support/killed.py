"""A small run of the real command, to be killed, resumed and compared with the run that was left alone."""

import hashlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from capo_lit.records.schema import read_records
from capo_lit.training.callbacks.checkpoint import latest_checkpoint
from tests.support import forked
from tests.support.commands import ONE_WORKER

STEPS, EVERY, PER_STEP = 9, 2, 16
RUN_LIMIT_S = 240


def command(root: Path, model: Path, *extra: str) -> list[str]:
    """The words of a fit of 9 steps with a checkpoint every 2."""
    settings = {
        "policy": model,
        "trainer.default_root_dir": root,
        "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 3,
        "validate_first": "false",
        **ONE_WORKER,
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
    config = str(forked.REPO / "configs" / "quickstart.yaml")
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return ["fit", "--config", config, *flags, *extra]


def run(words: list[str], cwd: Path) -> int:
    """Exit status of `capo WORDS...`; what it said is added to `cwd`/log.txt."""
    return forked.status(forked.start(forked.capo, words, cwd), RUN_LIMIT_S)


def end(words: list[str], cwd: Path) -> None:
    """Run to the end."""
    assert run(words, cwd) == 0, (cwd / "log.txt").read_text()[-3000:]


def killed_at(phase: str, step: int, words: list[str], cwd: Path) -> None:
    """Run until it kills itself in a phase of a rollout step."""
    killer = {"class_path": "tests.support.killer.KillAt", "init_args": {"phase": phase, "step": step}}
    overlay = cwd / "kill.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [killer]}}))
    status = run([*words, "--config", str(overlay)], cwd)
    assert status == -signal.SIGKILL, f"{phase}: {(cwd / 'log.txt').read_text()[-3000:]}"


def weights_of(root: Path) -> str:
    """SHA-256 of the policy that a run left."""
    return hashlib.sha256((root / "policy" / "model.safetensors").read_bytes()).hexdigest()


def final_state(root: Path) -> dict[str, Any]:
    """The checkpoint of the last step."""
    found = latest_checkpoint(root / "checkpoints")
    assert found is not None
    assert found.name == f"step={STEPS}.ckpt"
    state: dict[str, Any] = torch.load(found, weights_only=True)
    return state


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
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
    """Equal to the bit: weights, states of optimizer and schedule, and every recorded rollout."""
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
