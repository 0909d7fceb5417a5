"""The pocket judge under the real vLLM: alone through the GenPRM, and as the judge of a training run."""

from pathlib import Path
from typing import get_args

import pytest

from capo_lit.arithmetic.critiques import ArithmeticCritiqueSource
from capo_lit.arithmetic.judge_model import build_judge_tokenizer, write_initial_judge
from capo_lit.arithmetic.pocket_judge import held_out, measure_judge
from capo_lit.batch.sampling import Sampling
from capo_lit.core.votes import VoteRule
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.records.schema import read_records
from tests.support.commands import ONE_WORKER, capo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

REPO = Path(__file__).resolve().parents[2]
SMALL = {
    "trainer.max_steps": 1,
    "trainer.val_check_interval": 1,
    "data.prompts_per_step": 2,
    "data.train.size": 16,
    "data.val.size": 4,
    "rollout.group_size": 2,
    "rollout.eval_samples": 1,
    "validate_first": "false",
    **ONE_WORKER,
    # An untrained judge says nothing that can be read.
    "critique.max_abstain_frac": 1.0,
    "critique.judge.init_args.k": 3,
}


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_initial_judge(tmp_path_factory.mktemp("judge") / "initial")


def test_vllm_reads_the_prompt_of_the_training_and_every_vote_is_measured(judge: Path) -> None:
    engine = VLLMEngine(str(judge), dtype="float32", max_model_len=256, max_num_seqs=16, kv_cache_gib=0.1)
    try:
        judged = list(GenPRM(engine, k=2, vote="average", sampling=Sampling(max_tokens=8)).judge(held_out(6), seed=0))
    finally:
        engine.close()
    tokenizer, shown = build_judge_tokenizer(), ArithmeticCritiqueSource(6, 1, split="test").load()
    for item in judged:
        expected = len(tokenizer(shown[item.rollout.row].problem).input_ids)
        assert [critique.prompt_tokens for critique in item.critiques] == [expected, expected]
    measured = measure_judge(judge, size=3, k=2, temperature=1.0)
    assert set(measured) == set(get_args(VoteRule))
    assert all(0 <= row.abstained <= 1 for row in measured.values())


def test_a_run_under_the_pocket_judge_records_its_critiques(tmp_path: Path, judge: Path, initial: Path) -> None:
    settings = SMALL | {
        "policy": initial,
        "critique.judge.init_args.engine.init_args.model": judge,
        "trainer.default_root_dir": tmp_path / "run",
    }
    capo(tmp_path, "fit", "--config", str(REPO / "configs" / "quickstart_genprm.yaml"), **settings)
    rows = read_records(tmp_path / "run" / "records").to_pylist()
    assert len(rows) == 4
    assert all(len(row["critiques"]) == 3 for row in rows)
