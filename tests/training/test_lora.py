"""Adapters: what they change, what an engine gets, what a checkpoint holds."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from capo_lit.training.logprobs import response_logprobs
from capo_lit.training.lora import adapters_off, adapters_only, add_adapters, halve_base, has_adapters, merged_weights
from tests.support.tiny_llama import build

PROMPTS, RESPONSES = [[5, 6, 7], [8, 9]], [[10, 11, 12, 13], [14, 15]]


@pytest.fixture
def folder(tmp_path):
    build(tmp_path)
    return tmp_path


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logprobs(model):
    return response_logprobs(model, PROMPTS, RESPONSES)[0]


def trained(folder):
    """A model whose adapters have taken some steps."""
    model = add_adapters(load(folder), 4, seed=0)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        (-logprobs(model).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_new_adapters_change_nothing(folder):
    plain = load(folder)
    before = logprobs(plain)
    assert torch.equal(logprobs(add_adapters(plain, 16, seed=0)), before)


def test_only_adapters_train_and_they_are_few(folder):
    model = add_adapters(load(folder), 2, seed=0)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert names
    assert all(".lora_" in name for name in names)
    assert has_adapters(model)
    assert not has_adapters(load(folder))
    linear = 2 * 7  # two layers of q, k, v, o, gate, up, down
    assert len(names) == 2 * linear


def test_the_same_seed_draws_the_same_adapters_whatever_was_drawn_before(folder):
    torch.manual_seed(1)
    one = add_adapters(load(folder), 16, seed=3)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = add_adapters(load(folder), 16, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    three = add_adapters(load(folder), 16, seed=4)
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_merged_weights_are_the_trained_policy_under_its_own_names(folder):
    model, plain = trained(folder), load(folder)
    before = logprobs(plain)
    merged = dict(merged_weights(model))
    assert list(merged) == [name for name, _ in plain.named_parameters()]
    plain.load_state_dict(merged, strict=False)
    gap = (logprobs(plain) - logprobs(model)).abs().max().item()
    assert gap < 1e-5
    assert (logprobs(model) - before).abs().max().item() > 0.1


def test_with_adapters_off_it_is_the_first_policy_and_then_the_trained_one_again(folder):
    model = trained(folder)
    after = logprobs(model)
    with adapters_off(model):
        assert torch.allclose(logprobs(model), logprobs(load(folder)), atol=1e-6)
    assert torch.equal(logprobs(model), after)


def test_adapters_go_back_on_after_an_error(folder):
    model = trained(folder)
    after = logprobs(model)

    def fail():
        with adapters_off(model):
            raise ValueError("within")

    with pytest.raises(ValueError, match="within"):
        fail()
    assert torch.equal(logprobs(model), after)


def test_a_state_dict_of_adapters_makes_the_policy_again(folder):
    model = trained(folder)
    kept = adapters_only(model.state_dict(), model, "")
    assert all(".lora_" in name for name in kept)
    again = add_adapters(load(folder), 4, seed=9)
    again.load_state_dict(kept, strict=False)
    assert torch.equal(logprobs(again), logprobs(model))


def test_a_halved_base_keeps_float32_adapters(folder):
    model = trained(folder)
    halve_base(model)
    kinds = {parameter.requires_grad: parameter.dtype for parameter in model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert all(tensor.dtype == torch.float32 for name, tensor in merged_weights(model) if "proj" in name)
