"""A small run of the real command on two processes: vLLM for the policy and for a GenPRM in each, with evaluations."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from capo_lit.records.schema import read_records
from tests.support.byte_llama import build, write_template
from tests.support.forked import REPO

STEPS, EVERY, LIMIT_S = 4, 2, 420
DDP = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
FSDP = (
    "--trainer.devices", "2", "--trainer.strategy", "lightning.pytorch.strategies.ModelParallelStrategy",
    "--trainer.strategy.data_parallel_size", "2", "--trainer.strategy.tensor_parallel_size", "1",
)  # fmt: skip
# vLLM compiles the counting of a token's rank, which here takes longer than all the rest.
ENV = {**os.environ, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", "TORCH_COMPILE_DISABLE": "1"}
VLLM = "capo_lit.engines.vllm.VLLMEngine"


class Ended(NamedTuple):
    """How a run ended: its status, the seconds it took, and whether a process of it was left."""

    status: int
    seconds: float
    left: bool
    log: str


def write_config(folder: Path, policy: Path) -> Path:
    """The run's settings; the judge is a random model over bytes, which a schema makes say something."""
    engine = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 16, "kv_cache_gib": 0.1}
    judge = {
        "engine": {"class_path": VLLM, "init_args": {"model": str(build(folder / "judge")), **engine}},
        "template": str(write_template(folder / "json.txt")),
        "k": 2,
        "vote": "union",
        "sampling": {"max_tokens": 80},
        "early_stop": False,  # which replies are cut short is a matter of time
    }
    config = {
        "policy": str(policy),
        "model": {"init_args": {"optim": {"lr": 1e-3}}},
        "rollout": {
            "engine": {"class_path": VLLM, "init_args": {"dtype": "float32", "max_model_len": 64, "kv_cache_gib": 0.1}},
            "group_size": 4,
            "eval_samples": 2,
            "sampling": {"max_tokens": 12},
            "verifier": {"class_path": "capo_lit.verifier.Verifier", "init_args": {"workers": 1}},
        },
        "critique": {
            "judge": {"class_path": "capo_lit.genprm.judge.GenPRM", "init_args": judge},
            "max_abstain_frac": 1.0,
        },
        "data": {"prompts_per_step": 4, "train": {"size": 12}, "val": {"size": 5}},
        "checkpoint": {"every_n_steps": EVERY},
        "trainer": {
            "max_steps": STEPS,
            "val_check_interval": 2,
            "callbacks": [{"class_path": "tests.support.placed.Placed"}],
        },
        "validate_first": False,
    }
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def words(config: Path, root: Path, *extra: str) -> list[str]:
    """The words after `capo`."""
    base = str(REPO / "configs" / "quickstart.yaml")
    return ["fit", "--config", base, "--config", str(config), "--trainer.default_root_dir", str(root), *extra]


def killed_by(folder: Path, phase: str, step: int, rank: int) -> tuple[str, ...]:
    """Words that make one rank kill itself in a phase of a step."""
    killer = {"class_path": "tests.support.killer.KillAt", "init_args": {"phase": phase, "step": step, "rank": rank}}
    overlay = folder / f"kill-{phase}-{rank}.yaml"
    callbacks = [killer, {"class_path": "tests.support.placed.Placed"}]
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
    return ("--config", str(overlay))


def run(folder: Path, command: list[str], torchrun: bool = False) -> Ended:
    """Run `capo COMMAND` and wait for all of its processes; what is left after the deadline is killed."""
    module = ["-m", "capo_lit.cli", *command]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"] if torchrun else []
    started = time.monotonic()
    path = folder / "log.txt"
    with path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, *launcher, *module], cwd=folder, env=ENV, stdout=log, stderr=log, start_new_session=True
        )
        try:
            status = process.wait(LIMIT_S)
        finally:
            seconds = time.monotonic() - started
            left = _end_group(process.pid)
    return Ended(status, seconds, left, path.read_text()[-3000:])


def _end_group(group: int) -> bool:
    """Whether processes of a group are there a minute after its first has gone; they are killed."""
    until = time.monotonic() + 60
    while _living(group):
        if time.monotonic() > until:
            os.killpg(group, signal.SIGKILL)
            return True
        time.sleep(0.2)
    return False


def _living(group: int) -> bool:
    """Whether a process of a group runs; one that has ended may wait for its parent to notice."""
    for process in psutil.process_iter(["status"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                return True
        except ProcessLookupError:
            continue
    return False


def rows(root: Path) -> dict[tuple[int, int, int], dict[str, Any]]:
    """What a run recorded, without what its clock said, by (step, rank, row)."""
    table = {(row["step"], row["rank"], row["row"]): row for row in read_records(root).to_pylist()}
    return {key: _timeless(row) for key, row in table.items()}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(item) for name, item in value.items() if "seconds" not in name and name != "run"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
