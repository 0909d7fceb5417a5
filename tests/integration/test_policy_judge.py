"""A training run on vLLM whose policy judges its own steps, while what it was at the start judges the outcomes."""

from pathlib import Path

import pytest
import yaml

from capo_lit.records.curves import read_curves
from capo_lit.records.schema import read_records
from tests.support.byte_llama import build, write_template
from tests.support.commands import capo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
pytest.importorskip("vllm")

REPO = Path(__file__).resolve().parents[2]
POLICY_ENGINE = "capo_lit.engines.policy.PolicyEngine"
SMALL = {"dtype": "float32", "max_model_len": 1024, "max_num_seqs": 16, "kv_cache_gib": 0.1}


def test_the_policy_judges_itself_on_one_engine(tmp_path: Path) -> None:
    policy = build(tmp_path / "policy")
    judge = {
        "engine": {"class_path": POLICY_ENGINE, "init_args": {"weights": "current"}},
        "template": str(write_template(tmp_path / "json.txt")),
        "k": 3,
        "sampling": {"max_tokens": 200},
        "early_stop": False,
    }
    initial = {"class_path": "capo_lit.engines.vllm.VLLMEngine", "init_args": SMALL | {"max_model_len": 4096}}
    outcomes = {
        "engine": {"class_path": POLICY_ENGINE, "init_args": {"weights": "initial", "engine": initial}},
        "k": 1,
        "sampling": {"max_tokens": 4},
    }
    overlay = {
        "policy": str(policy),
        "rollout": {
            "engine": {"class_path": "capo_lit.engines.vllm.VLLMEngine", "init_args": SMALL},
            "outcomes": {"class_path": "capo_lit.genprm.outcome.GenORM", "init_args": outcomes},
            "group_size": 4,
            "style": "line",
            "sampling": {"max_tokens": 24},
        },
        "critique": {
            "judge": {"class_path": "capo_lit.genprm.judge.GenPRM", "init_args": judge},
            "max_abstain_frac": 1.0,
        },
        "data": {"prompts_per_step": 2, "template": {"style": "plain", "text": "{problem}"}},
        "trainer": {"default_root_dir": str(tmp_path / "run"), "max_steps": 2, "limit_val_batches": 0},
        "validate_first": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(overlay))
    configs = ["--config", str(REPO / "configs" / "quickstart.yaml"), "--config", str(tmp_path / "run.yaml")]
    capo(tmp_path, "fit", *configs)
    rows = read_records(tmp_path / "run" / "records").to_pylist()
    assert [(row["step"], row["row"]) for row in rows] == [(step, row) for step in range(2) for row in range(8)]
    critiques = [critique for row in rows for critique in row["critiques"]]
    assert len(critiques) >= 3 * 12
    # The schema reached the engine that also samples: the noise of this model is a verdict nearly every time.
    named = [critique for critique in critiques if critique["wrong"] is not None]
    assert len(named) > len(critiques) / 2
    assert not [critique["cause"] for critique in critiques if critique["cause"].startswith("error")]
    # The judge of outcomes speaks freely and says neither yes nor no.
    assert {row["outcome"] for row in rows} == {None}
    curves = read_curves(tmp_path / "run")
    # No token was trained, so no gap is measured; that the engine follows the policy is for the probe to say.
    assert "policy/engine_logp_gap" not in curves
    assert set(curves["reward/outcome_unknown_frac"].values()) == {1.0}
