"""`capo` on a small model with the engine of this process: dry runs, checkpoints by name, and one-line refusals."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import Told, call

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
  verifier: {class_path: capo_lit.verifier.Verifier, init_args: {workers: 1}}
  group_size: 2
  sampling: {max_tokens: 6}
  eval_samples: 1
checkpoint: {every_n_steps: 1}
"""


@pytest.fixture
def folder(tmp_path: Path, initial: Path) -> Path:
    (tmp_path / "initial").symlink_to(initial)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


@pytest.fixture
def capo(folder: Path) -> Callable[..., Told]:
    files = ["--config", str(REPO / "configs" / "quickstart.yaml"), "--config", "small.yaml", "--policy", "./initial"]
    return lambda command, *flags: call(folder, command, *files, *flags)


def test_a_dry_run_leaves_nothing_and_the_run_after_it_is_not_refused(folder: Path, capo: Callable[..., Told]) -> None:
    before = sorted(folder.rglob("*"))
    assert capo("fit", "--trainer.fast_dev_run", "1")[0] == 0
    assert sorted(folder.rglob("*")) == before
    assert capo("fit")[0] == 0
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for command in ("fit", "test", "predict"):
        assert capo(command, "--trainer.fast_dev_run", "2")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == after

    status, shown, _ = capo("validate", "--ckpt_path", "best")
    assert status == 0
    assert "policy_version: 2" in shown
    refused = (
        ("validate", "--ckpt_path", "last", "--trainer.default_root_dir", "empty"),
        ("test", "--data.test", "null"),
        ("predict", "--data.test", "null"),
        ("fit", "--ckpt_path", "nope.ckpt"),
        ("fit", "--trainer.default_root_dir", "small.yaml/run"),
    )
    for command, *flags in refused:
        status, _, said = capo(command, *flags)
        assert status == 1
        (line,) = [line for line in said.splitlines() if line.startswith("capo: ")]
        assert flags[0] in line
        assert said.splitlines()[-1] == line
