"""Packed rows: logprobs and gradients of padded ones, and who computes them."""

import random

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from capo_lit.training import logprobs as scoring
from capo_lit.training.loading import load_policy
from capo_lit.training.logprobs import packs_exactly, response_logprobs
from capo_lit.training.lora import adapters_off, add_adapters
from capo_lit.training.packing import can_pack, disable_packing, enable_packing, pack, packing_enabled
from tests.support.builders import tiny_llama

TOLERANCE = 2e-6  # of logprobs, relative to the largest, and of the whole gradient's norm
SIZES = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def rows():
    """Prompts of several lengths, each with several responses; one is empty."""
    draw = random.Random(0)
    lengths = [7, 12, 12, 1, 3]
    texts = [tuple(draw.randrange(3, 99) for _ in range(length)) for length in lengths]
    tails = [(1, 17, 5, 17)] * 4 + [(0, 9)]
    prompts = [text for text, tail in zip(texts, tails, strict=True) for _ in tail]
    return prompts, [tuple(draw.randrange(3, 99) for _ in range(length)) for tail in tails for length in tail]


PROMPTS, RESPONSES = rows()
WEIGHTS = torch.rand((len(RESPONSES), 17), generator=torch.Generator().manual_seed(0)) + 0.5


def saved(folder, name, **settings):
    """A random model of an architecture, whose attention is far from uniform."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**SIZES, **settings))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return str(folder)


def scored(model):
    """Logprobs, entropies and the whole gradient of a weighted sum of the logprobs."""
    model.zero_grad()
    logprobs, entropy = response_logprobs(model, PROMPTS, RESPONSES, temperature=0.8)
    (logprobs * WEIGHTS).sum().backward()
    trained = [p.grad.flatten() for p in model.parameters() if p.requires_grad]
    return logprobs.detach(), entropy, torch.cat(trained)


def assert_same(one, two, tolerance=TOLERANCE):
    for got, expected in zip(one[:2], two[:2], strict=True):
        assert float((got - expected).abs().max()) < tolerance * float(expected.abs().max())
    assert float((one[2] - two[2]).norm()) < tolerance * float(two[2].norm())


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Gemma", "GPTNeoX"])
def test_packed_rows_have_the_logprobs_and_the_gradient_of_padded_ones(tmp_path, name, monkeypatch):
    model = load_policy(saved(tmp_path, name))
    assert can_pack(model)
    packed = scored(model)
    disable_packing(model)
    monkeypatch.setattr(scoring, "pack", None)
    padded = scored(model)
    assert not torch.equal(packed[2], padded[2])  # or nothing was packed
    assert_same(packed, padded)


def test_rows_of_one_length_are_packed_without_padding_inside(tmp_path):
    model = load_policy(str(tiny_llama(tmp_path, initializer_range=0.2) and tmp_path))
    prompts, responses = [(4, 5, 6)] * 3, [(7, 8, 9, 10), (7, 8, 9, 11), (12, 13, 14, 15)]
    layout = pack(prompts, responses, torch.device("cpu"))
    # Three tokens of the prompt, then four of each response; the first of each is predicted by the prompt's last.
    assert layout.ids.tolist() == [[4, 5, 6, 7, 8, 9, 10, 7, 8, 9, 11, 12, 13, 14, 15]]
    assert layout.positions.tolist() == [[0, 1, 2, *[3, 4, 5, 6] * 3]]
    assert layout.predicting.tolist() == [2, 3, 4, 5, 2, 7, 8, 9, 2, 11, 12, 13]
    assert layout.mask.shape == (1, 1, 4, 7)
    assert layout.mask[0, 0].sum(1).tolist() == [4, 5, 6, 7]
    got, _ = response_logprobs(model, prompts, responses)
    alone = [response_logprobs(model, [p], [r])[0][0] for p, r in zip(prompts, responses, strict=True)]
    torch.testing.assert_close(got, torch.stack(alone), atol=TOLERANCE, rtol=TOLERANCE)


def test_recomputed_activations_give_the_same_gradient_to_the_bit(tmp_path):
    path = saved(tmp_path, "Llama")
    assert torch.equal(scored(load_policy(path))[2], scored(load_policy(path, gradient_checkpointing=True))[2])


def test_adapters_are_trained_on_packed_rows(tmp_path):
    model = add_adapters(load_policy(saved(tmp_path, "Llama")), rank=4, seed=0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    assert can_pack(model)
    packed = scored(model)
    with torch.no_grad(), adapters_off(model):
        reference = response_logprobs(model, PROMPTS, RESPONSES, temperature=0.8)[0]
    disable_packing(model)
    assert_same(packed, scored(model))
    with torch.no_grad(), adapters_off(model):
        expected = response_logprobs(model, PROMPTS, RESPONSES, temperature=0.8)[0]
    assert float((reference - expected).abs().max()) < TOLERANCE * float(expected.abs().max())
    assert float((reference - packed[0]).abs().max()) > 0.1


def test_bf16_packs_as_well(tmp_path):
    model = load_policy(saved(tmp_path, "Llama"))
    exact = scored(model)
    with torch.autocast("cpu", torch.bfloat16):
        low = scored(model)
    assert torch.cosine_similarity(low[2], exact[2], dim=0) > 0.99


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("Gemma2", {}, "layers of sliding_attention"),
        ("Mistral", {"sliding_window": 4096}, "sliding_window is 4096"),
        ("Bloom", {}, "BloomForCausalLM has an attention of its own"),
    ],
)
def test_who_cannot_pack_says_so_and_is_padded(tmp_path, caplog, name, settings, why):
    with caplog.at_level("INFO"):
        model = load_policy(saved(tmp_path, name, **settings))
    assert "the prompt of a group is computed for each of its rollouts" in caplog.text
    assert why in caplog.text
    assert not packing_enabled(model)
    alone = [response_logprobs(model, [p], [r], 0.8)[0][0] for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    got = response_logprobs(model, PROMPTS, RESPONSES, 0.8)[0]
    torch.testing.assert_close(got[:, 0], torch.stack([row[0] if len(row) else got.new_zeros(()) for row in alone]))


def test_layers_that_lose_the_layout_on_the_way_are_found_out(tmp_path, monkeypatch, caplog):
    path, layer = saved(tmp_path, "Llama"), transformers.models.llama.modeling_llama.LlamaDecoderLayer
    forward = layer.forward

    def deaf(self, *args, packed=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", deaf)
    with caplog.at_level("INFO"):
        model = load_policy(path)
    assert "its layers do not keep packed rows apart" in caplog.text
    assert not can_pack(model)
    assert enable_packing(model) == ""
    assert not packs_exactly(model)


def test_only_a_model_on_the_cpu_packs(tmp_path):
    model = load_policy(saved(tmp_path, "Llama"))
    assert can_pack(model)
    assert packing_enabled(model.to("meta"))
    assert not can_pack(model)


def test_an_exported_policy_knows_nothing_of_it(tmp_path):
    model = load_policy(saved(tmp_path / "policy", "Llama"))
    model.save_pretrained(tmp_path / "export")
    assert "capo" not in (tmp_path / "export" / "config.json").read_text()


def test_masks_of_others_hold_as_before(tmp_path):
    path = saved(tmp_path, "Llama")
    model, plain = load_policy(path), AutoModelForCausalLM.from_pretrained(path)
    ids, mask = torch.tensor([[0, 0, 5, 6, 7], [8, 9, 10, 11, 12]]), torch.tensor([[0, 0, 1, 1, 1], [1] * 5])
    for arguments in ({"attention_mask": mask}, {}):
        assert torch.equal(model(ids, **arguments).logits, plain(ids, **arguments).logits)


def test_on_several_threads_the_gradient_is_the_same_every_time(tmp_path):
    torch.manual_seed(0)
    tiny_llama(tmp_path, vocab_size=99, hidden_size=256, num_hidden_layers=1)
    model, before = load_policy(str(tmp_path)), torch.get_num_threads()
    prompts, responses = [(5, 6, 7)] * 400, [(8 + row % 90, 9) for row in range(400)]
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(8):
            model.zero_grad()
            response_logprobs(model, prompts, responses)[0].sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])
