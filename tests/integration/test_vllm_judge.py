"""Judges on a real vLLM engine: replies held to a schema, and early stops that free what they no longer need."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from capo_lit.batch.facts import CritiquedRollout
from capo_lit.batch.sampling import Sampling
from capo_lit.core.votes import VoteRule
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from tests.support.byte_llama import build, write_template
from tests.support.judging import SEED, rollout

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
pytest.importorskip("vllm")

ROLLOUTS, K, SLOTS = 4, 8, 16
SAMPLING = Sampling(max_tokens=200)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMEngine]:
    folder = build(tmp_path_factory.mktemp("bytes"))
    engine = VLLMEngine(str(folder), dtype="float32", max_model_len=3072, max_num_seqs=SLOTS, kv_cache_gib=0.1)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_template(tmp_path_factory.mktemp("template") / "json.txt")


def replies(items: list[CritiquedRollout]) -> list[str]:
    return [critique.reply for item in items for critique in item.critiques]


def is_critique(reply: str) -> bool:
    try:
        data = json.loads(reply, strict=False)
    except ValueError:
        return False
    return list(data) == ["analysis", "wrong_steps"] and all(0 <= index <= 2 for index in data["wrong_steps"])


def test_a_schema_makes_every_reply_a_critique(engine: VLLMEngine, template: Path, tmp_path: Path) -> None:
    rollouts = [rollout(row) for row in range(ROLLOUTS)]
    free = write_template(tmp_path / "free.txt", schema=False)
    said = {
        path: replies(
            list(GenPRM(engine, path, k=K, sampling=SAMPLING, early_stop=False, vote="average").judge(rollouts, SEED))
        )
        for path in (template, free)
    }
    assert len(said[template]) == len(said[free]) == ROLLOUTS * K
    assert all(map(is_critique, said[template]))
    assert not any(map(is_critique, said[free]))
    # The packaged template brings its schema with it; noise does not come to the end of its analysis.
    packaged = list(GenPRM(engine, "json", k=2, sampling=Sampling(max_tokens=24)).judge(rollouts[:1], SEED))
    assert all(reply.startswith('{"analysis":"') for reply in replies(packaged))


@pytest.mark.parametrize("rule", ["intersection", "majority", "union"])
def test_an_early_stop_frees_the_slots_and_keeps_the_verdicts(
    engine: VLLMEngine, template: Path, rule: VoteRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = [rollout(row) for row in range(ROLLOUTS)]

    def judge(early_stop: bool) -> GenPRM:
        return GenPRM(engine, template, k=K, vote=rule, sampling=SAMPLING, early_stop=early_stop)

    full = {item.rollout.row: item for item in judge(early_stop=False).judge(rollouts, SEED)}
    llm = engine._llm.llm_engine
    # What vLLM itself holds: requests that run, and requests that wait for a slot.
    counts = llm.engine_core.engine_core.scheduler.get_request_counts
    freed = []
    abort = engine._abort

    def watched(request_ids: list[str]) -> None:
        before = counts()
        abort(request_ids)
        after = counts()
        assert sum(before) - sum(after) == len(request_ids)
        freed.append(before[0] - after[0])

    monkeypatch.setattr(engine, "_abort", watched)
    aborted = 0
    for item in judge(early_stop=True).judge(rollouts, SEED):
        gone = sum(critique.aborted for critique in item.critiques)
        aborted += gone
        # They are gone at once, before vLLM makes a further step.
        assert len(freed) == aborted
        assert sum(counts()) == len(engine._flights)
        # To the letter the critiques of the full vote, less those that were called off; and its verdict.
        whole = full[item.rollout.row]
        assert item.verdict.step_error == whole.verdict.step_error
        for one, other in zip(item.critiques, whole.critiques, strict=True):
            assert one.aborted or one.reply == other.reply
    assert aborted > 0
    # Some of them ran, and gave back their slots.
    assert sum(freed) > 0
    assert counts() == (0, 0)
