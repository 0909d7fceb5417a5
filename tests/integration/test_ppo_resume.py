"""PPO through the command line: killed in the middle of an update and resumed, it ends bit-identical."""

import signal

import pytest
import yaml

from capo_lit.arithmetic.model import write_initial_model
from tests.integration.test_resume import assert_same_run, command, final_state, run

pytestmark = pytest.mark.slow

# Wrong steps as dense rewards, from the noisy judge of `command`; several micro-batches an update.
PPO = {
    "model": {
        "class_path": "capo_lit.training.ppo.PPOModule",
        "init_args": {"ppo": {"lam": 0.95, "value_lr": 1e-3}, "update": {"tokens_per_microbatch": 512}},
    }
}


@pytest.mark.timeout(900)
def test_killed_in_an_update_and_resumed_it_ends_bit_identical(tmp_path):
    model = write_initial_model(tmp_path / "model", seed=1)
    overlay, kill = tmp_path / "ppo.yaml", tmp_path / "kill.yaml"
    overlay.write_text(yaml.safe_dump(PPO))
    killer = {"class_path": "tests.support.killer.KillAt", "init_args": {"phase": "update", "step": 5}}
    kill.write_text(yaml.safe_dump({"trainer": {"callbacks": [killer]}}))
    words = {name: command(tmp_path / name, model, "--config", str(overlay)) for name in ("whole", "killed")}
    assert run(words["whole"], tmp_path) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert run([*words["killed"], "--config", str(kill)], tmp_path) == -signal.SIGKILL
    assert run([*words["killed"], "--ckpt_path", "last"], tmp_path) == 0, (tmp_path / "log.txt").read_text()[-3000:]
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    state = final_state(tmp_path / "killed")["state_dict"]
    assert state["value.head.weight"].abs().sum() > 0
