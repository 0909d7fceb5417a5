"""Adapters on their way into an engine, without vLLM: files, and what is pushed when."""

import json

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import EngineError
from capo_lit.engines.adapters import slot_rank, write_adapters
from capo_lit.engines.base import Adapters, Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.policy import PolicyEngine, _BaseRows
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.training.lora import adapters_of, add_adapters
from capo_lit.training.rollouts import Sampler
from tests.support.scripted_engine import ScriptedEngine
from tests.support.tiny_llama import build

SOME = Adapters(4, 2, {"model.layers.0.self_attn.q_proj": (torch.zeros(4, 8), torch.zeros(8, 4))})


class Holding(ScriptedEngine):
    """Notes what is pushed into it."""

    takes_base = True

    def __init__(self):
        super().__init__(lambda request: "")
        self.pushed: list[tuple[str, int, bool]] = []
        self.asked: list[Adapters | None] = []
        self.takes_schema = True

    def hold_adapters(self, adapters):
        self.asked.append(adapters)
        return adapters is not None

    def load_adapters(self, adapters, version, base=None):
        self.pushed.append(("adapters", version, base is not None))
        self._version = version

    def load_weights(self, named_tensors, version):
        self.pushed.append(("merged", version, True))
        self._version = version

    @property
    def version(self):
        return getattr(self, "_version", None)


class Policy:
    """As much of one as a push needs."""

    def __init__(self, adapters):
        self.version, self._adapters = 0, adapters

    def engine_adapters(self):
        return self._adapters

    def engine_weights(self):
        return iter(())

    engine_base = engine_weights


@pytest.mark.parametrize(("rank", "room"), [(1, 1), (2, 8), (8, 8), (9, 16), (200, 256), (512, 512), (513, 0)])
def test_a_slot_is_the_next_larger_that_vllm_has(rank, room):
    assert slot_rank(rank) == room


def test_the_files_are_peft_s(tmp_path):
    from peft import PeftModel

    build(tmp_path / "base")
    model = add_adapters(LlamaForCausalLM.from_pretrained(tmp_path / "base"), 4, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.2)
    for _ in range(2):  # the second takes the place of the first
        write_adapters(adapters_of(model), tmp_path / "adapters", torch.float32)
    again = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(tmp_path / "base"), str(tmp_path / "adapters"))
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.allclose(again(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)
    assert json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())["r"] == 4
    assert len(list((tmp_path / "adapters").iterdir())) == 2


def test_the_base_comes_with_the_first_push_and_after_it_was_dropped():
    engine, policy = Holding(), Policy(SOME)
    sampler = Sampler(engine)
    sampler.follow(policy)
    for _ in range(2):
        sampler.push(policy)
    policy.version = 1
    sampler.push(policy)
    engine._version = None
    sampler.push(policy)
    assert engine.asked == [SOME]
    assert engine.pushed == [("adapters", 0, True), ("adapters", 1, False), ("adapters", 1, True)]


@pytest.mark.parametrize("engine", [Holding(), ScriptedEngine(lambda request: "")])
def test_whole_weights_are_pushed_without_adapters_and_into_engines_that_hold_none(engine):
    pushed = []
    engine.load_weights = lambda tensors, version: pushed.append(version)
    policy = Policy(None if isinstance(engine, Holding) else SOME)
    sampler = Sampler(engine)
    sampler.follow(policy)
    sampler.push(policy)
    assert pushed == [0]


def test_vllm_makes_room_before_it_starts_and_not_after():
    engine = VLLMEngine("m")
    assert not engine.hold_adapters(None)
    assert engine.hold_adapters(SOME)
    assert engine.takes_base
    wide = Adapters(16, 2, SOME.pairs)
    assert engine.hold_adapters(wide)
    assert not VLLMEngine("m").hold_adapters(Adapters(513, 2, SOME.pairs))
    engine._started = True
    assert engine.hold_adapters(SOME)
    assert not engine.hold_adapters(Adapters(17, 2, SOME.pairs))
    other = {"model.layers.0.mlp.up_proj": SOME.pairs["model.layers.0.self_attn.q_proj"]}
    assert not engine.hold_adapters(Adapters(4, 2, other))
    assert not engine.hold_adapters(None)
    assert not engine.takes_base
    bare = VLLMEngine("m")
    bare._started = True
    assert not bare.hold_adapters(SOME)


def test_requests_of_the_base_are_refused_where_there_is_none(tmp_path):
    build(tmp_path)
    request = Request("r", (3, 4), Sampling(max_tokens=2), 0, base=True)
    with pytest.raises(EngineError, match="weights below adapters"):
        HFEngine(str(tmp_path)).submit(request).result(0)


def test_an_initial_judge_takes_the_base_unless_it_has_an_engine_of_its_own(tmp_path):
    build(tmp_path)
    engine = Holding()
    judge, own = PolicyEngine("initial"), PolicyEngine("initial", HFEngine)
    for one in (judge, own):
        one.bind(engine, str(tmp_path))
    assert isinstance(judge.bound, _BaseRows)
    assert isinstance(own.bound, HFEngine)
    assert not judge.stands_still  # the rollouts' sampling steps it too
    judge.submit(Request("r", (3, 4), Sampling(max_tokens=2), 0))
    assert engine.requests[-1].base
    # A run of a policy without adapters comes after it.
    engine.takes_base = False
    judge.bind(engine, str(tmp_path))
    assert isinstance(judge.bound, VLLMEngine)
