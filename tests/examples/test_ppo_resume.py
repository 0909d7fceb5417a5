"""PPO through the command line: killed in the middle of an update and resumed, it ends bit-identical."""

from pathlib import Path

import pytest
import yaml

from tests.support.killed import assert_same_run, command, end, final_state, killed_at

# In every run of the tests: exact resume of CAPO's command, and PPO's in one process.
pytestmark = [pytest.mark.slow, pytest.mark.nightly]

# Wrong steps as dense rewards, from the noisy judge of `command`; several micro-batches an update.
PPO = {
    "model": {
        "class_path": "examples.ppo.PPOModule",
        "init_args": {"ppo": {"lam": 0.95, "value_lr": 1e-3}, "update": {"tokens_per_microbatch": 512}},
    }
}


@pytest.mark.timeout(900)
def test_killed_in_an_update_and_resumed_it_ends_bit_identical(tmp_path: Path, initial: Path) -> None:
    overlay = tmp_path / "ppo.yaml"
    overlay.write_text(yaml.safe_dump(PPO))
    words = {name: command(tmp_path / name, initial, "--config", str(overlay)) for name in ("whole", "killed")}
    end(words["whole"], tmp_path)
    killed_at("update", 5, words["killed"], tmp_path)
    end([*words["killed"], "--ckpt_path", "last"], tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    state = final_state(tmp_path / "killed")["state_dict"]
    assert state["value.head.weight"].abs().sum() > 0
