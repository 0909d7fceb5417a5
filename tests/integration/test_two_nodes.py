"""`capo fit` under two torchrun agents on this machine, as on two nodes: it is the run of two processes of one node."""

import socket
import subprocess
import sys

import pytest

from tests.support.forked import REPO
from tests.support.killed import weights_of
from tests.support.two_ranks import ENV

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1200)]
pytest.importorskip("vllm")
LIMIT_S = 500
SETTINGS = [
    *("--trainer.strategy", "ddp", "--trainer.max_steps", "3", "--trainer.limit_val_batches", "0"),
    *("--validate_first", "false", "--data.prompts_per_step", "4", "--rollout.group_size", "4"),
]


def words(policy, root, *more):
    config = ["--config", str(REPO / "configs" / "quickstart.yaml"), "--policy", str(policy)]
    return ["-m", "capo_lit.cli", "fit", *config, "--trainer.default_root_dir", str(root), *SETTINGS, *more]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def run(commands, cwd):
    """Run commands side by side to their ends."""
    logs = [cwd / f"log{place}.txt" for place in range(len(commands))]
    started = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as out:
                started.append(subprocess.Popen([sys.executable, *command], env=ENV, cwd=cwd, stdout=out, stderr=out))
        statuses = [process.wait(LIMIT_S) for process in started]
    finally:
        for process in started:
            process.kill()
    assert statuses == [0] * len(commands), "".join(log.read_text()[-2000:] for log in logs)


def test_two_agents_train_what_two_processes_train(tmp_path, initial):
    agent = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    agent += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "capo"]
    fit = words(initial, tmp_path / "nodes", "--trainer.num_nodes", "2", "--trainer.devices", "1")
    run([[*agent, "--node-rank", str(node), *fit] for node in (0, 1)], tmp_path)
    run([words(initial, tmp_path / "one", "--trainer.devices", "2")], tmp_path)
    assert weights_of(tmp_path / "nodes") == weights_of(tmp_path / "one")
    ranks = {file.name[-12:-8] for file in (tmp_path / "nodes" / "records").glob("*.parquet")}
    assert ranks == {"0000", "0001"}
