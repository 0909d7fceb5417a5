"""The engine on a GPU: compiled, asleep, woken, pushed. `make gpu-check` runs these; without CUDA they are skipped."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request, as_completed
from capo_lit.engines.vllm import VLLMEngine
from capo_lit.training.logprobs import response_logprobs
from tests.support.tiny_llama import build, perturb

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
REQUESTS = [Request(f"r{i}", tuple(range(3, 12 + i % 3)), Sampling(max_tokens=24), seed=i) for i in range(16)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "policy"
    build(path)
    return path


@pytest.fixture(scope="module")
def engine(folder):
    engine = VLLMEngine(str(folder), dtype="bfloat16", max_model_len=160, gpu_memory_utilization=0.2)
    yield engine
    engine.close()


def sampled(engine):
    done = {one.request_id: one for one in as_completed(engine, REQUESTS)}
    return [done[request.request_id] for request in REQUESTS]


def gap(model, completions) -> float:
    """The mean absolute difference of the engine's logprobs and the model's in float32."""
    with torch.no_grad():
        ours, _ = response_logprobs(model, [r.prompt for r in REQUESTS], [c.ids for c in completions])
    differences = [
        abs(a - b)
        for row, one in zip(ours.tolist(), completions, strict=True)
        for a, b in zip(row, one.logprobs, strict=False)
    ]
    return sum(differences) / len(differences)


def test_logprobs_are_the_models_before_and_after_a_push(engine, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).cuda()
    assert gap(model, sampled(engine)) < 0.05
    before = sampled(engine)
    perturb(model.cpu(), seed=1)
    model.cuda()
    engine.load_weights(((name, tensor.detach()) for name, tensor in model.named_parameters()), version=1)
    after = sampled(engine)
    assert [one.ids for one in after] != [one.ids for one in before]
    assert gap(model, after) < 0.05


def test_asleep_it_leaves_the_gpu_to_the_trainer_and_wakes_as_it_was(engine):
    awake = sampled(engine)
    held = torch.cuda.mem_get_info()[0]
    engine.rest()
    free = torch.cuda.mem_get_info()[0]
    assert free - held > 0.1 * torch.cuda.get_device_properties(0).total_memory
    model = AutoModelForCausalLM.from_pretrained(engine.model, dtype=torch.float32)
    perturb(model, seed=1)
    engine.load_weights(((name, tensor.detach()) for name, tensor in model.named_parameters()), version=2)
    assert [one.ids for one in sampled(engine)] == [one.ids for one in awake]
