"""The real small model: converted once into the cache, then answering through transformers."""

import json
import time
from pathlib import Path

import pytest
import torch

from capo_lit.cli import smollm2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model_dir() -> Path:
    return smollm2.prepare()


def test_a_second_call_converts_nothing(model_dir: Path) -> None:
    before = (model_dir / "model.safetensors").stat().st_mtime_ns
    started = time.perf_counter()
    assert smollm2.prepare() == model_dir
    # Reading 540 MB for the checksum; downloading and converting take 20 s and more.
    assert time.perf_counter() - started < 10
    assert (model_dir / "model.safetensors").stat().st_mtime_ns == before


def test_special_tokens_template_and_generation_config(model_dir: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert tokenizer.model_max_length == 8192
    generation = GenerationConfig.from_pretrained(model_dir)
    assert (generation.bos_token_id, generation.eos_token_id, generation.pad_token_id) == (1, 2, 2)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    # Control tokens are single ids, digits are single tokens.
    assert tokenizer("<|im_end|>").input_ids == [2]
    assert [tokenizer.decode([i]) for i in tokenizer("12 + 30").input_ids] == ["1", "2", " +", " ", "3", "0"]


def test_config_carries_no_trace_of_quantization(model_dir: Path) -> None:
    config = json.loads((model_dir / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert "quantization_config" not in config


def test_it_adds_two_numbers(model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    assert model.dtype == torch.float32
    chat = [{"role": "user", "content": "What is 12 + 30?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**prompt, max_new_tokens=40, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    # A 4-bit model of 135M parameters: it forms the sentence and stops, the sum is wrong (42).
    assert tokenizer.decode(output).startswith("12 + 30 = ")
    assert output[-1].item() == tokenizer.eos_token_id
