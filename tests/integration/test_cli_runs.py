"""The commands on a small model with the real vLLM: SFT, CAPO, GRPO, validate, test, predict, loggers."""

from pathlib import Path

import pytest
import yaml

from capo_lit.evaluation.names import FAILURES, METRICS
from capo_lit.records.curves import read_curves
from capo_lit.records.results import read_result
from capo_lit.records.schema import read_records
from tests.support.commands import ONE_WORKER, call, capo, flags

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPO = Path(__file__).resolve().parents[2]
# Of a reference model, of a judge gate and of a judge that has an engine; and of other modules, judges of outcomes and
# engines that fail.
OTHERS = {"policy/kl_ref", "critique/gate_f1", "critique/prefix_cached_frac", "time/ahead_wait_s"}
OTHER_KINDS = ("sft/", "value/", "outcome/", *(f"critique/failed_{cause}" for cause in FAILURES))
SMALL = {
    "trainer.max_steps": 3,
    "trainer.val_check_interval": 3,
    "data.prompts_per_step": 2,
    "data.train.size": 32,
    "data.val.size": 6,
    "data.test.size": 6,
    "rollout.group_size": 4,
    "rollout.eval_samples": 2,
    **ONE_WORKER,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, initial):
    cwd = tmp_path_factory.mktemp("capo")
    config = str(REPO / "configs" / "quickstart.yaml")
    own = {"policy": initial, "trainer.default_root_dir": cwd / "run", "critique.score_judge": "true"}
    capo(cwd, "fit", "--config", config, **SMALL, **own)
    return cwd


def test_a_run_logs_the_defined_metrics_to_csv_and_tensorboard(trained):
    curves = read_curves(trained / "run")
    assert set(curves) <= set(METRICS)
    # Everything of a CAPO step, every step; what belongs to other runs is left out.
    missing = {name for name in METRICS if not name.startswith(OTHER_KINDS)} - set(curves) - OTHERS
    assert not missing
    assert sorted(curves["policy/loss"]) == [1, 2, 3]
    assert sorted(curves["val/avg_at_k"]) == [0, 3]
    assert all(gap < 1e-4 for gap in curves["policy/engine_logp_gap"].values())
    assert list((trained / "run" / "tensorboard").rglob("events.out.tfevents.*"))


def test_records_hold_every_rollout_with_the_version_that_sampled_it(trained):
    rows = read_records(trained / "run" / "records").to_pylist()
    assert [(row["step"], row["row"]) for row in rows] == [(step, row) for step in range(3) for row in range(8)]
    assert all(row["policy_version"] == row["step"] for row in rows)
    for row in rows:
        gaps = [abs(a - b) for a, b in zip(row["engine_logprobs"], row["trainer_logprobs"], strict=True)]
        assert max(gaps) < 1e-4
        assert "".join(row["pieces"]) == row["text"]


def test_validate_test_and_predict_on_a_checkpoint(trained):
    config = str(REPO / "configs" / "quickstart.yaml")
    common = {"policy": trained / "run" / "policy", **SMALL, "trainer.default_root_dir": trained / "run"}
    shown = capo(trained, "validate", "--config", config, "--ckpt_path", "last", **common)
    for name in ("val/avg_at_k", "val/pass_at_k", "val/greedy_accuracy", "val/step_error_frac"):
        assert name in shown
    for told in ("policy_version: 3", "'problems': 6", "sha256", "written to"):
        assert told in shown
    assert "test/avg_at_k" in capo(trained, "test", "--config", config, "--ckpt_path", "last", **common)
    # The checkpoint's policy, measured again: the same seeds give the same numbers as at the end of training.
    curves = read_curves(trained / "run")
    assert sorted(curves["val/avg_at_k"]) == [0, 3]
    capo(trained, "predict", "--config", config, "--ckpt_path", "last", **common)
    rows = read_records(trained / "run" / "predictions").to_pylist()
    assert len(rows) == 6 * 3  # two samples and a greedy one for each problem
    assert all(row["advantages"] is None for row in rows)


def test_every_evaluation_leaves_a_result_with_its_manifest_and_the_best_its_checkpoint(trained):
    results = {path.name: read_result(path) for path in (trained / "run" / "results").glob("val-*.json")}
    assert set(results) == {"val-step=0.json", "val-step=3.json"}
    curves = read_curves(trained / "run")
    for step in (0, 3):
        values, manifest = results[f"val-step={step}.json"]
        assert values["val/avg_at_k"] == pytest.approx(curves["val/avg_at_k"][step])
        assert values["val/greedy_accuracy_low"] <= values["val/greedy_accuracy"] <= values["val/greedy_accuracy_high"]
        assert manifest["policy_version"] == step
        assert manifest["data"]["problems"] == 6
        assert manifest["sampling"]["samples"] == 2
    assert results["val-step=0.json"][1]["data"] == results["val-step=3.json"][1]["data"]
    # Step 0 was measured before the fit; of the fit's own evaluations there is one.
    assert [path.name for path in (trained / "run" / "best").iterdir()] == ["step=3.ckpt"]


def test_a_second_fit_does_not_write_over_the_first(trained, initial):
    config = str(REPO / "configs" / "quickstart.yaml")
    root = {"policy": initial, "trainer.default_root_dir": trained / "run", "validate_first": "false"}
    done = call(trained, "fit", "--config", config, *flags({**SMALL, **root}))
    assert done.status == 1
    assert "already holds records" in done.err
    assert "--ckpt_path last" in done.err
    assert "Traceback" not in done.err


def test_grpo_runs_from_the_same_config_without_a_judge(tmp_path, initial):
    configs = [
        word
        for name in ("quickstart.yaml", "algorithm/grpo.yaml")
        for word in ("--config", str(REPO / "configs" / name))
    ]
    capo(
        tmp_path,
        "fit",
        *configs,
        policy=initial,
        **SMALL,
        validate_first="false",
        **{"trainer.default_root_dir": tmp_path},
    )
    rows = read_records(tmp_path / "records").to_pylist()
    assert all(row["critiques"] is None for row in rows)
    assert all(len(set(row["token_rewards"])) == 1 for row in rows)


def test_sft_learns_and_stops_by_what_it_measures(tmp_path, initial):
    config = str(REPO / "configs" / "quickstart_sft.yaml")
    small = {"data.val.size": 8, "data.train.size": 512, "trainer.val_check_interval": 20, "trainer.max_steps": 41}
    stop = {"monitor": "val/step_error_frac", "stopping_threshold": 1.1, "check_on_train_epoch_end": False}
    callback = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": stop}
    overlay = tmp_path / "stop.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    root = {"trainer.default_root_dir": tmp_path / "sft"}
    capo(tmp_path, "fit", "--config", config, "--config", str(overlay), policy=initial, **small, **root)
    loss = read_curves(tmp_path / "sft")["sft/loss"]
    assert max(loss) == 20  # any step error passes the threshold, so the first validation ends the run
    assert loss[20] < 0.9 * loss[10]
    assert (tmp_path / "sft" / "policy" / "model.safetensors").exists()
