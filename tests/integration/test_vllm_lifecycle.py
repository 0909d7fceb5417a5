"""Several vLLM engines in one process: beside each other, asleep, closed, and those that cannot start."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines import vllm_process
from capo_lit.engines.base import Request
from capo_lit.engines.vllm import VLLMEngine
from tests.support.process_world import world
from tests.support.tiny_llama import MAX_LEN, build, gap, perturb, requests, run

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")


def test_a_second_engine_lives_and_dies_beside_the_first(
    engine: VLLMEngine, model: LlamaForCausalLM, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A judge with weights of its own (untied, bf16, stop strings) beside the policy; closing it disturbs nothing."""
    other = build(tmp_path, tie=False, seed=9)
    judge = VLLMEngine(str(tmp_path), dtype="bfloat16", max_model_len=MAX_LEN, kv_cache_gib=0.1)
    asked = [replace(request, stop=("w7",)) for request in requests(32, tokens=34)]
    before = world()
    replies = run(judge, asked)
    assert world() == before
    assert judge.dtype == torch.bfloat16
    mean, most = gap(other, asked, replies)
    record_property("gap_bf16", (mean, most))
    assert mean < 5e-2, f"bf16 gap: mean {mean:.2e}, max {most:.2e}"
    assert most < 1.0, f"bf16 gap: mean {mean:.2e}, max {most:.2e}"
    stopped = [reply for reply in replies if "w7" in reply.text]
    assert stopped
    assert all(reply.text.endswith("w7") and reply.finish_reason == "stop" for reply in stopped)
    perturb(other, seed=1)
    judge.load_weights(other.named_parameters(), version=1)
    assert gap(other, asked, run(judge, asked))[0] < 5e-2
    assert gap(model, asked, run(engine, asked))[1] < 1e-4
    judge.close()
    assert gap(model, asked, run(engine, asked))[1] < 1e-4


@pytest.fixture
def calls(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The order of the calls only: a CPU has no sleep mode, so vLLM's two methods are watched instead of run."""
    calls: list[str] = []
    core = engine._llm.llm_engine
    monkeypatch.setattr(engine, "_sleeps", True)
    monkeypatch.setattr(core, "sleep", lambda level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(core, "wake_up", lambda: calls.append("wake"))
    monkeypatch.setattr(engine, "_asleep", False)
    return calls


def test_weights_that_were_pushed_are_dropped_when_the_trainer_needs_the_memory_and_must_be_pushed_again(
    engine: VLLMEngine, model: LlamaForCausalLM, calls: list[str]
) -> None:
    engine.load_weights(model.named_parameters(), version=4)
    future = engine.submit(requests(1, tokens=3)[0])
    with pytest.raises(EngineError, match="1 requests in flight"):
        engine.rest()
    while not future.done():
        engine.step()
    assert calls == []  # a judge that is the policy may have more to ask
    engine.rest()
    engine.rest()
    assert calls == ["sleep 2"]
    assert engine.version is None
    with pytest.raises(EngineError, match=r"weights were dropped.*pushed again"):
        engine.submit(requests(1)[0]).result(0)
    with pytest.raises(EngineError, match="weights were dropped"):
        engine.score([((3,), (4,))])
    assert calls == ["sleep 2"]
    engine.load_weights(model.named_parameters(), version=4)
    assert calls == ["sleep 2", "wake"]
    asked = requests(2, tokens=3)
    assert {reply.version for reply in run(engine, asked)} == {4}
    assert gap(model, asked, run(engine, asked))[1] < 1e-4


def test_one_engine_of_a_process_sleeps(engine: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's allocator serves one: a second engine that asked for it would die of an AssertionError."""
    assert vllm_process.may_sleep()
    monkeypatch.setattr(engine._llm.llm_engine.model_config, "enable_sleep_mode", True)
    assert not vllm_process.may_sleep()


def test_an_engine_that_is_never_pushed_sleeps_while_nothing_is_in_flight(
    engine: VLLMEngine, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_version", None)
    futures = [engine.submit(request) for request in requests(2, tokens=3)]
    futures[0].cancel()
    assert calls == []
    while not futures[1].done():
        engine.step()
    assert calls == ["sleep 1"]
    engine.rest()  # it does already
    assert calls == ["sleep 1"]
    engine.submit(requests(1)[0]).cancel()
    assert calls == ["sleep 1", "wake", "sleep 1"]
    # A request that is refused wakes nothing up for good.
    with pytest.raises(EngineError):
        engine.submit(Request("outside", (3, 999), Sampling(), 0)).result(0)
    assert calls == ["sleep 1", "wake", "sleep 1", "wake", "sleep 1"]


def test_a_closed_engine_starts_again_from_its_checkpoint(engine: VLLMEngine, model: LlamaForCausalLM) -> None:
    future = engine.submit(requests(1)[0])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        future.result(0)
    engine.close()
    asked = requests(4)
    completions = run(engine, asked)
    assert engine.version is None
    assert {c.version for c in completions} == {None}
    assert gap(model, asked, completions)[1] < 1e-4


def test_what_cannot_start_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_num_seqs 0"):
        VLLMEngine("m", max_num_seqs=0)
    engine = VLLMEngine(str(tmp_path / "nowhere"), max_model_len=MAX_LEN)
    assert engine.dtype is None
    with pytest.raises(EngineError, match="does not start"):
        engine.submit(requests(1)[0])


def test_more_prompt_tokens_than_one_step_holds(running: VLLMEngine, path: Path) -> None:
    # 100 different prompts of 140 tokens at once: 14,000, where a step takes some thousands.
    wide = VLLMEngine(str(path), dtype="float32", max_model_len=MAX_LEN, max_num_seqs=100, kv_cache_gib=0.2)
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(3, 48) for _ in range(140)) for _ in range(100)]
    asked = [Request(f"r{row}", prompt, Sampling(max_tokens=4), row) for row, prompt in enumerate(prompts)]
    assert [reply.prompt_tokens for reply in run(wide, asked)] == [140] * 100
    wide.close()
