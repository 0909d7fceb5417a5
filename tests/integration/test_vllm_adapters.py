"""Adapters in a real vLLM on CPU: pushed alone, never mixed with older ones, and the base below them still answers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from transformers import LlamaForCausalLM

from capo_lit.batch.credit import CreditConfig
from capo_lit.batch.sampling import Sampling
from capo_lit.batch.step import StepBatch
from capo_lit.core.errors import EngineError
from capo_lit.core.seeding import derive_seed
from capo_lit.engines.adapters import AdapterSlots
from capo_lit.engines.base import Adapters, Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.policy import PolicyEngine, _BaseRows
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.genprm.judge import GenPRM
from capo_lit.genprm.store import judge_identity
from capo_lit.training.callbacks.critique import CritiqueCallback
from capo_lit.training.callbacks.rollout import RolloutCallback
from capo_lit.training.capo import CapoModule
from capo_lit.training.lora import adapters_of, add_adapters, base_weights, merged_weights
from capo_lit.training.settings import LossConfig, OptimConfig
from tests.support import byte_llama
from tests.support.builders import make_prompt
from tests.support.loaders import Loader
from tests.support.tiny_llama import MAX_LEN, gap, perturb, requests, run

pytestmark = pytest.mark.slow
pytest.importorskip("vllm")

RANK = 4  # vLLM's slots have 1 or 8
EXACT = 1e-4
# Three full blocks of the prefix cache, and some.
LONG = [Request(f"r{i}", tuple(3 + place % 45 for place in range(100)), Sampling(max_tokens=8), i) for i in range(4)]


def draw(model: LlamaForCausalLM, seed: int) -> Adapters:
    """Give every B of a model with adapters other values, as updates do, and return the adapters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return adapters_of(model)


def merged(model: LlamaForCausalLM, path: Path) -> LlamaForCausalLM:
    """A plain model of the weights that one with adapters computes with."""
    plain = LlamaForCausalLM.from_pretrained(path).eval()
    plain.load_state_dict(dict(merged_weights(model)), strict=False)
    return plain


@pytest.fixture(scope="module")
def holding(path: Path) -> Iterator[VLLMEngine]:
    engine = VLLMEngine(str(path), dtype="float32", max_model_len=MAX_LEN, max_num_seqs=16, kv_cache_gib=0.1)
    assert engine.hold_adapters(adapters_of(add_adapters(LlamaForCausalLM.from_pretrained(path), RANK, seed=0)))
    yield engine
    engine.close()


@pytest.fixture
def policy(path: Path) -> LlamaForCausalLM:
    """With adapters that change what it says."""
    model = add_adapters(LlamaForCausalLM.from_pretrained(path).eval(), RANK, seed=0)
    draw(model, seed=1)
    return model


@pytest.fixture
def engine(holding: VLLMEngine, policy: LlamaForCausalLM) -> VLLMEngine:
    """With the policy's adapters, as version 1."""
    holding.hold_adapters(adapters_of(policy))
    holding.load_adapters(adapters_of(policy), 1, base_weights(policy))
    return holding


def test_the_engine_with_adapters_is_the_merged_policy(engine, policy, model, path) -> None:
    asked = requests(32)
    replies = run(engine, asked)
    whole = merged(policy, path)
    assert gap(whole, asked, replies)[1] < EXACT
    assert gap(model, asked, replies)[1] > 0.1
    assert {reply.version for reply in replies} == {1}
    (score,) = engine.score([(asked[0].prompt, replies[0].ids)])
    with torch.no_grad():
        logits = whole(input_ids=torch.tensor([[*asked[0].prompt, *replies[0].ids]])).logits[0]
    own = torch.log_softmax(logits[len(asked[0].prompt) - 1 : -1], -1)
    assert score.logprob == pytest.approx(float(own.gather(1, torch.tensor(replies[0].ids)[:, None]).sum()), abs=1e-3)


def test_after_a_push_nothing_is_left_of_older_adapters_in_the_prefix_cache_either(engine, policy, path) -> None:
    run(engine, LONG)
    for version in (2, 3):
        draw(policy, seed=version)
        engine.load_adapters(adapters_of(policy), version)
        prompts, cached = engine.prompt_tokens, engine.cached_tokens
        replies = run(engine, LONG)
        assert gap(merged(policy, path), LONG, replies)[1] < EXACT
        assert {reply.version for reply in replies} == {version}
        # The first of the four reads the whole prompt, and the others take three blocks of it.
        assert (engine.prompt_tokens - prompts, engine.cached_tokens - cached) == (400, 3 * 96)


def test_adapters_that_kept_their_name_would_be_mixed_with_older_ones(engine, policy, path, monkeypatch) -> None:
    """What the test above would not notice if vLLM keyed its cache by anything else."""
    load = AdapterSlots._load
    monkeypatch.setattr(
        AdapterSlots, "_load", lambda self, llm, number, name, adapters: load(self, llm, number, "kept", adapters)
    )
    engine.load_adapters(adapters_of(policy), 1)
    run(engine, LONG)
    draw(policy, seed=2)
    engine.load_adapters(adapters_of(policy), 2)
    assert gap(merged(policy, path), LONG, run(engine, LONG))[1] > 0.1


def test_rows_of_the_base_are_the_first_policy_in_one_batch_with_the_trained_one(engine, policy, model, path) -> None:
    asked = requests(16)
    mixed = [replace(request, base=place % 2 == 0) for place, request in enumerate(asked)]
    replies = run(engine, mixed)
    assert gap(model, asked, replies[::2])[1] < EXACT
    assert gap(merged(policy, path), asked, replies[1::2])[1] < EXACT
    assert {reply.version for reply in replies[::2]} == {None}
    # The base stays where it is when adapters come, and so do its computed prompts.
    base = [replace(request, base=True) for request in LONG]
    before = run(engine, base)
    engine.load_adapters(draw(policy, seed=2), 2)
    cached = engine.cached_tokens
    assert [reply.logprobs for reply in run(engine, base)] == [reply.logprobs for reply in before]
    assert engine.cached_tokens - cached == 4 * 96


def test_rows_without_any_adapters_would_get_those_of_their_batch(engine, model, monkeypatch) -> None:
    """vLLM's fault on CPUs, for which the base has adapters that are zero; where this fails it is mended."""
    own = engine._slots.request
    monkeypatch.setattr(engine._slots, "request", lambda base: None if base else own(base))
    asked = requests(16)
    replies = run(engine, [replace(request, base=place % 2 == 0) for place, request in enumerate(asked)])
    assert gap(model, asked, replies[::2])[1] > 0.1


def test_a_base_that_is_not_the_engines_checkpoint_comes_with_the_first_push(engine, policy, path) -> None:
    before = LlamaForCausalLM.from_pretrained(path).eval()
    perturb(before, seed=3)
    other = add_adapters(before, RANK, seed=5)
    engine.load_adapters(draw(other, seed=6), 7, base_weights(other))
    asked = requests(16)
    replies = run(engine, [replace(request, base=place % 2 == 0) for place, request in enumerate(asked)])
    base = LlamaForCausalLM.from_pretrained(path).eval()
    perturb(base, seed=3)
    assert gap(base, asked, replies[::2])[1] < EXACT
    assert gap(merged(other, path), asked, replies[1::2])[1] < EXACT


def test_merged_weights_take_the_place_of_adapters(engine, policy, path) -> None:
    assert not engine.hold_adapters(None)
    whole = merged(policy, path)
    perturb(whole, seed=1)
    engine.load_weights(whole.named_parameters(), version=2)
    asked = requests(8)
    assert gap(whole, asked, run(engine, asked))[1] < EXACT
    with pytest.raises(EngineError, match="weights below adapters"):
        engine.submit(replace(asked[0], base=True)).result(0)


def test_the_initial_judge_is_the_rollouts_engine(engine, policy, model, path) -> None:
    judge = PolicyEngine("initial")
    judge.bind(engine, str(path))
    assert isinstance(judge.bound, _BaseRows)
    asked = requests(8)
    assert gap(model, asked, run(judge, asked))[1] < EXACT
    assert (judge.version, judge.dtype, judge.takes_schema) == (None, torch.float32, True)
    # Its replies can be kept: they are those of the same weights throughout.
    identity = judge_identity(judge.bound)
    engine.load_adapters(draw(policy, seed=2), 2)
    assert judge_identity(judge.bound) == identity
    judge.close()
    assert len(run(engine, asked)) == 8


def test_what_adapters_cannot_be_pushed_onto_says_so(engine, policy, path) -> None:
    flying = engine.submit(requests(1)[0])
    with pytest.raises(EngineError, match="1 requests in flight"):
        engine.load_adapters(adapters_of(policy), 2)
    flying.cancel()
    strange = Adapters(RANK, 2, {"model.layers.0.lm_tail": (torch.zeros(RANK, 8), torch.zeros(8, RANK))})
    with pytest.raises(EngineError, match=r"vLLM does not take.*lm_tail"):
        engine.load_adapters(strange, 2)
    with pytest.raises(EngineError, match="some are version 2 and some 1"):
        engine.submit(requests(1)[0]).result(0)
    with pytest.raises(EngineError, match="a push of their base"):
        engine.load_adapters(adapters_of(policy), 2)
    with pytest.raises(EngineError, match="asked to hold them before its start"):
        VLLMEngine(str(path)).load_adapters(adapters_of(policy), 1, base_weights(policy))


def test_the_base_is_kept_where_the_memory_goes_to_the_trainer(engine, policy, path, monkeypatch) -> None:
    """The order of the calls only: a CPU has no sleep mode, so vLLM's two methods are watched instead of run."""
    calls: list[str] = []
    core = engine._llm.llm_engine
    monkeypatch.setattr(engine, "_sleeps", True)
    monkeypatch.setattr(core, "sleep", lambda level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(core, "wake_up", lambda: calls.append("wake"))
    engine.rest()
    assert calls == ["sleep 1"]
    assert engine.version == 1
    engine.load_adapters(draw(policy, seed=2), 2)
    assert calls == ["sleep 1", "wake"]
    assert gap(merged(policy, path), LONG, run(engine, LONG))[1] < EXACT


def test_a_run_that_is_judged_by_the_base_of_its_own_engine(tmp_path) -> None:
    """Two steps on one engine: rollouts by the adapters of the moment, critiques by the weights below, as in HF."""
    folder = str(byte_llama.build(tmp_path / "policy"))
    template = byte_llama.write_template(tmp_path / "short.txt", schema=False)
    settings = {"k": 1, "vote": "greedy", "sampling": Sampling(temperature=0.0, max_tokens=12)}
    engine = VLLMEngine(folder, dtype="float32", max_model_len=1024, max_num_seqs=8, kv_cache_gib=0.1)
    judge = GenPRM(PolicyEngine("initial"), template, **settings)
    module = CapoModule(folder, OptimConfig(lr=0.05), CreditConfig(), LossConfig(importance_cap=None), lora_rank=RANK)
    callbacks = [
        RolloutCallback(engine, group_size=4, sampling=Sampling(max_tokens=16), style="line"),
        CritiqueCallback(judge, max_abstain_frac=1.0),
    ]
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=callbacks,
    )  # fmt: skip
    batches = [StepBatch([make_prompt(f"p{step}")], step) for step in range(3)]
    trainer.fit(module, Loader(batches))
    assert engine.version == 2
    assert isinstance(judge.engine.bound, _BaseRows)
    initial = GenPRM(HFEngine(folder), template, **settings)
    for batch in batches:
        versions = {rollout.completion.version for rollout in batch.require_rollouts()}
        assert versions == {batch.step}
        asked = initial.judge(batch.require_rollouts(), derive_seed(0, "critique", batch.step))
        replies = {item.rollout.row: [one.reply for one in item.critiques] for item in asked}
        assert {item.rollout.row: [one.reply for one in item.critiques] for item in batch.require_verdicts()} == replies
        assert any(replies.values())
    engine.close()
