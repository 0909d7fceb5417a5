"""Real vLLM servers beside a real run: killed in the middle of a step and of a push, and with their trainer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from lightning.pytorch import Callback

from capo_lit.cli.trainer import build
from capo_lit.engines.servers import VLLMServers
from capo_lit.records.schema import read_records
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.rollouts import Sampler
from tests.support.forked import REPO
from tests.support.http_world import wait_for
from tests.support.server_killer import KillServers, processes

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.timeout(1500)]
STEPS, PROMPTS, GROUP = 4, 4, 4
DEADLINE_S = 400.0


@pytest.fixture(scope="module")
def engine(initial: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServers]:
    made = VLLMServers(
        str(initial), 2, dtype="float32", max_model_len=128, max_num_seqs=16, kv_cache_gib=0.1, timeout_s=DEADLINE_S
    )
    made.log_folder = tmp_path_factory.mktemp("logs")
    yield made
    made.close()


def trained(engine: VLLMServers, initial: Path, root: Path, *callbacks: Callback) -> dict[str, torch.Tensor]:
    """The weights after a few steps of the quickstart on these servers."""
    settings: dict[str, Any] = {
        "policy": initial, "trainer.default_root_dir": root, "trainer.max_steps": STEPS,
        "trainer.val_check_interval": 2,
        "data.prompts_per_step": PROMPTS, "data.train.size": 16, "data.val.size": 4, "rollout.group_size": GROUP,
        "rollout.eval_samples": 2, "trainer.logger": "false",
    }  # fmt: skip
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    cli = build(["--config", str(REPO / "configs" / "quickstart.yaml"), *flags], run=False)
    rollout = next(one for one in cli.trainer.callbacks if isinstance(one, RolloutCallback))
    rollout.sampler = Sampler(engine, rollout.sampler.style, rollout.sampler.seed)
    cli.trainer.callbacks[:0] = callbacks
    cli.trainer.fit(cli.model, cli.datamodule)
    return {name: tensor.clone() for name, tensor in cli.model.state_dict().items()}


def test_servers_that_are_killed_in_a_step_and_in_a_push_change_nothing(
    engine: VLLMServers, initial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    untouched = trained(engine, initial, tmp_path / "untouched")
    assert engine.fleet.starts == 2
    assert engine.failed_attempts == {}
    killer = KillServers(engine, monkeypatch, in_step=1, in_push=3)
    killed = trained(engine, initial, tmp_path / "killed", killer)
    assert killer.hits == ["step", "push"]
    assert engine.failed_attempts["connection"] > 0  # requests were lost with the server, and asked again
    for name, tensor in untouched.items():
        assert torch.equal(tensor, killed[name]), name
    rows = [read_records(tmp_path / run / "records").to_pylist() for run in ("untouched", "killed")]
    kept = ("step", "row", "response_ids", "policy_version", "advantages")
    ours, theirs = (sorted(tuple(map(str, (row[name] for name in kept))) for row in table) for table in rows)
    assert len(ours) == STEPS * PROMPTS * GROUP
    assert ours == theirs
    assert all(row["policy_version"] == row["step"] for row in rows[1])
    assert wait_for(lambda: all(member.ready for member in engine.fleet.members), DEADLINE_S)
    assert engine.fleet.starts == 4
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in killer.victims)
    left = [process for member in engine.fleet.members for process in processes(member)]
    assert len(left) >= 8
    engine.close()
    assert wait_for(lambda: not any(process.is_running() for process in left))
