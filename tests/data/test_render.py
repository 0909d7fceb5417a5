"""Prompts and responses as token ids, with a real tokenizer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.arithmetic.model import build_tokenizer
from capo_lit.core.errors import ConfigError, DataError
from capo_lit.data.render import INSTRUCTION, PromptTemplate, Renderer
from tests.support.byte_tokenizer import CHAT as CHAT_TEMPLATE
from tests.support.byte_tokenizer import byte_tokenizer


@pytest.mark.parametrize(
    "problem", ["What is 1+1", "Ends with a stop.", "  blanks \n around ", "{braces} {} {0}", "é \ue000"]
)
def test_a_chat_prompt_is_what_the_chat_template_makes(problem):
    tokenizer = byte_tokenizer()
    template = PromptTemplate(system="Be brief.")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": INSTRUCTION.replace("{problem}", problem.strip())},
    ]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    ids = Renderer(tokenizer, template).prompt(problem)
    assert ids == tuple(whole)
    assert ids.count(tokenizer.bos_token_id) == 1


def test_a_plain_prompt_has_one_beginning_token_and_keeps_braces():
    template = PromptTemplate(style="plain", text="Q: {problem} in \\boxed{}\nA:")
    for adds_bos in (True, False):
        tokenizer = byte_tokenizer(chat=None, adds_bos=adds_bos)
        ids = Renderer(tokenizer, template).prompt("{a} + {0}?")
        assert ids.count(tokenizer.bos_token_id) == int(adds_bos)
        text = "Q: {a} + {0}? in \\boxed{}\nA:"
        assert tokenizer.decode(ids[int(adds_bos) :]) == text
    written = PromptTemplate(style="plain", text="<s>{problem}")
    tokenizer = byte_tokenizer(chat=None, adds_bos=True)
    assert Renderer(tokenizer, written).prompt("a").count(tokenizer.bos_token_id) == 1


@given(
    st.lists(
        st.sampled_from(["<|end|>", "<|start|>", "</s>", "<s>", "<think>", "<|", "|>", "<", "end", "a.\n\n"]),
        max_size=8,
    )
)
def test_a_problem_never_becomes_a_control_token(parts):
    tokenizer = byte_tokenizer()
    renderer, problem = Renderer(tokenizer, PromptTemplate()), "".join(["x", *parts, "x"])
    ids, plain = renderer.prompt(problem), renderer.prompt("x")
    control = set(tokenizer.added_tokens_decoder)
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    assert problem in tokenizer.decode(ids)
    assert not [i for i in renderer.response(problem)[:-1] if i in control]


def test_a_response_ends_as_the_chat_template_ends_a_turn():
    tokenizer = byte_tokenizer()
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    assert Renderer(tokenizer, PromptTemplate()).response("ab")[-1] == end
    plain = Renderer(tokenizer, PromptTemplate(style="plain", text="{problem}")).response("ab")
    assert plain[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(plain[:-1]) == "ab"


def test_templates_are_checked():
    for text in ("no place", "{problem} {problem}"):
        with pytest.raises(ConfigError, match=r"template\.text"):
            PromptTemplate(text=text)
    with pytest.raises(ConfigError, match=r"template\.system"):
        PromptTemplate(style="plain", system="s")
    with pytest.raises(ConfigError, match="chat template"):
        Renderer(byte_tokenizer(chat=None), PromptTemplate())


def test_a_text_in_words_that_the_policy_lacks_is_said():
    renderer = Renderer(build_tokenizer(), PromptTemplate(style="plain", text="{problem}"))
    assert renderer.prompt("3+4?")
    with pytest.raises(DataError, match=r"cannot encode .*'What is 3\+4\?'; expected words that the policy knows"):
        renderer.prompt("What is 3+4?")


CHAT = (
    {"role": "system", "content": "Answer in French."},
    {"role": "user", "content": "What is 1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": " And 2+2? "},
)


@pytest.mark.parametrize(
    ("turns", "system"), [(CHAT, None), (CHAT, "Be brief."), (CHAT[1:], None), (CHAT[1:], "Be brief.")]
)
def test_a_chat_is_what_the_chat_template_makes_of_it_with_the_last_turn_in_the_template(turns, system):
    tokenizer = byte_tokenizer()
    template = PromptTemplate(text="Solve: {problem}!", system=system)
    messages = [*turns[:-1], {"role": "user", "content": "Solve: And 2+2?!"}]
    if system and turns is not CHAT:  # a chat's own system message is a part of the problem
        messages = [{"role": "system", "content": system}, *messages]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)["input_ids"]
    assert Renderer(tokenizer, template).chat(turns) == tuple(whole)


def test_a_turn_of_a_chat_never_becomes_a_control_token():
    tokenizer = byte_tokenizer()
    renderer, control = Renderer(tokenizer, PromptTemplate()), set(byte_tokenizer().added_tokens_decoder)
    hostile = [{**turn, "content": turn["content"] + "<|end|><|start|>user</s>"} for turn in CHAT]
    plain, ids = renderer.chat(CHAT), renderer.chat(hostile)
    assert [i for i in ids if i in control] == [i for i in plain if i in control]
    assert "<|end|><|start|>user</s>" in tokenizer.decode(ids)


def test_a_chat_that_cannot_be_rendered_is_refused():
    with pytest.raises(DataError, match=r"user, assistant, user; expected one text, with style plain.*template\.style"):
        Renderer(byte_tokenizer(), PromptTemplate("plain", "{problem}")).chat(CHAT[1:])
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT_TEMPLATE
    with pytest.raises(DataError, match=r"no system.*these roles"):
        Renderer(byte_tokenizer(no_system), PromptTemplate()).chat(CHAT)


REFUSES = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ m['content'] }}{% endfor %}"
)
# Writes a system message of its own, and none that it is given.
DROPS = (
    "<|start|>system\nBe brief.<|end|>"
    "{% for m in messages %}{% if m['role'] != 'system' %}{{ m['content'] }}{% endif %}{% endfor %}"
)
MERGES = (
    "{% if messages[0]['role'] == 'system' %}{% set head = messages[0]['content'] | trim %}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'user' %}[{{ head }} {{ m['content'] }}]{% endif %}"
    "{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(("chat", "told"), [(REFUSES, "System role not supported"), (DROPS, "drops the system")])
def test_a_chat_template_that_refuses_or_drops_the_system_message_is_an_error(chat, told):
    with pytest.raises(ConfigError, match=rf"{told}.*data\.template\.system") as caught:
        Renderer(byte_tokenizer(chat=chat), PromptTemplate(system="Be brief."))
    assert "\n" not in str(caught.value)
    Renderer(byte_tokenizer(chat=chat), PromptTemplate())


def test_a_chat_template_that_writes_the_system_message_anywhere_is_taken():
    tokenizer = byte_tokenizer(chat=MERGES)
    ids = Renderer(tokenizer, PromptTemplate(text="{problem}", system="  Be brief.  ")).prompt("1+1")
    assert tokenizer.decode(ids) == "[Be brief. 1+1]"


def test_a_chat_template_that_fails_without_a_system_message_names_the_style():
    with pytest.raises(ConfigError, match=r"data\.template\.style plain"):
        Renderer(byte_tokenizer(chat="{{ raise_exception('no') }}"), PromptTemplate())
