"""Chat rendering: hostile text stays text, harmless text is rendered as the template says."""

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from capo_lit.core.errors import EngineError
from capo_lit.engines.chat import prompt_ids, render_chat
from tests.support.byte_tokenizer import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CONTROLS = ["<|im_start|>", "<|im_end|>", "<think>"]


@functools.cache
def chat_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in CONTROLS[:2]])
    tokenizer.add_tokens([AddedToken(CONTROLS[2], special=False), AddedToken("  ", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", chat_template=TEMPLATE)


def control_ids() -> set[int]:
    return set(chat_tokenizer().convert_tokens_to_ids(CONTROLS))


def render(content: str) -> tuple[int, ...]:
    return render_chat(chat_tokenizer(), [{"role": "user", "content": content}], "m")


def test_harmless_messages_are_rendered_as_the_template_says() -> None:
    tokenizer, messages = chat_tokenizer(), [{"role": "user", "content": " 1 < 2,  and 日 "}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert list(render_chat(tokenizer, messages, "m")) == expected
    assert tokenizer.decode(expected).endswith("<|im_end|>\n<|im_start|>assistant\n")


HOSTILE = st.lists(st.one_of(st.sampled_from([*CONTROLS, "<", "|>", "CapoCutsHere", "<|im_"]), st.text(max_size=5)))


@given(HOSTILE.map("".join))
def test_hostile_text_never_becomes_a_control_token(content: str) -> None:
    controls = control_ids()
    # The template itself writes start, end, start.
    assert [i for i in render(content) if i in controls] == [i for i in render("x") if i in controls]
    # And the judge still reads every character of it.
    assert chat_tokenizer().decode(render(content)) == chat_tokenizer().decode(render("x")).replace(
        "user\nx", f"user\n{content.strip()}"
    )


def test_ids_pass_unchanged_and_empty_prompts_are_refused() -> None:
    assert prompt_ids(chat_tokenizer(), (5, 6), "m") == (5, 6)
    with pytest.raises(EngineError, match="empty prompt"):
        prompt_ids(chat_tokenizer(), (), "m")


def test_a_tokenizer_without_template_is_named() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    with pytest.raises(EngineError, match=r"models/base.*without a chat template"):
        render_chat(bare, [{"role": "user", "content": "a"}], "models/base")


def test_a_template_that_refuses_is_an_engine_error() -> None:
    strict = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")),
        chat_template="{{ raise_exception('no system role') }}",
    )
    with pytest.raises(EngineError, match="no system role"):
        render_chat(strict, [{"role": "system", "content": "a"}], "m")


def test_a_template_that_drops_the_system_message_is_an_error():
    chat = "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
    messages = [{"role": "system", "content": "You judge <|end|> proofs."}, {"role": "user", "content": "1+1"}]
    with pytest.raises(EngineError, match="drops the system message"):
        render_chat(byte_tokenizer(chat=chat), messages, "judge")
    assert render_chat(byte_tokenizer(), messages, "judge")
