"""configs/gsm8k_smollm2.yaml with the real SmolLM2 as policy and as judge, on word problems, in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from capo_lit.cli import smollm2
from capo_lit.records.curves import read_curves
from capo_lit.records.schema import read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPO = Path(__file__).resolve().parents[2]
PROBLEMS = [
    ("Ada has 3 boxes of 4 pens each. How many pens has she?", "Each box has 4 pens, so 3 * 4 = 12 pens.\n#### 12"),
    ("A train runs 60 km an hour. How far does it run in 2 hours?", "60 * 2 = 120 km.\n#### 120"),
    ("Bo had 10 apples and ate 3. How many are left?", "10 - 3 = 7 apples.\n#### 7"),
]
SMALL = {
    "trainer.max_steps": 2,
    "data.prompts_per_step": 1,
    "rollout.group_size": 2,
    "rollout.sampling.max_tokens": 24,
    "rollout.engine.max_model_len": 256,
    "critique.judge.sampling.max_tokens": 16,
    "critique.judge.engine.max_model_len": 1024,
}


@pytest.mark.nightly
def test_an_llm_judge_reads_real_rollouts_of_a_real_policy(tmp_path):
    model = smollm2.prepare()
    data = tmp_path / "problems.jsonl"
    data.write_text("".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in PROBLEMS))
    settings = {
        **SMALL,
        "policy": model,
        "critique.judge.engine.model": model,
        "data.train.path": data,
        "data.val.path": data,
        "trainer.default_root_dir": tmp_path / "run",
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    config = str(REPO / "configs" / "gsm8k_smollm2.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "capo_lit.cli", "fit", "--config", config, *flags],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = read_records(tmp_path / "run" / "records").to_pylist()
    assert [row["step"] for row in rows] == [0, 0, 1, 1]
    for row in rows:
        assert row["answer"] in ("12", "120", "7")
        assert len(row["critiques"]) == (2 if row["spans"] else 0)
        assert all(critique["prompt_tokens"] > 100 for critique in row["critiques"])  # the judge saw the solution
        assert row["policy_version"] == row["step"]
    gaps = read_curves(tmp_path / "run")["policy/engine_logp_gap"]
    # The engine computes in bfloat16, the trainer in float32: a few hundredths of a nat, and not a stale weight's.
    assert all(1e-4 < gap < 0.1 for gap in gaps.values())
