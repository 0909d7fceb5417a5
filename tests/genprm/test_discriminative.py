"""The discriminative PRM on tiny token classifiers: where it reads, what it refuses, and whether a trained one finds
planted errors."""

from dataclasses import replace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForTokenClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForTokenClassification,
)

from capo_lit.core.errors import ConfigError, JudgeError
from capo_lit.core.steps import split_steps
from examples.discriminative_prm import DiscriminativePRM
from tests.support.builders import make_prompt, make_rollout
from tests.support.byte_tokenizer import byte_tokenizer

SIZES = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 160, "num_labels": 2, "initializer_range": 0.2,
}  # fmt: skip


def save(folder, model):
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def llama(**changes):
    torch.manual_seed(0)
    settings = {**SIZES, "num_key_value_heads": 4, "vocab_size": len(byte_tokenizer()), "pad_token_id": None, **changes}
    return LlamaConfig(**settings)


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    return save(tmp_path_factory.mktemp("llama"), LlamaForTokenClassification(llama()))


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory):
    torch.manual_seed(0)
    config = BertConfig(**SIZES, vocab_size=len(byte_tokenizer()), pad_token_id=0)
    return save(tmp_path_factory.mktemp("bert"), BertForTokenClassification(config))


def rollout(text, row=0, problem="1+1?"):
    item = make_rollout(row, pieces=(text, "")) if text else make_rollout(row, pieces=("",))
    return replace(item, prompt=make_prompt(uid=f"p{row}", problem=problem))


def by_row(judge, rollouts):
    return sorted(judge.judge(rollouts, 0), key=lambda item: item.rollout.row)


@pytest.mark.parametrize("kind", ["causal", "both_ways"])
def test_every_step_is_read_at_its_own_separator(kind, request):
    folder = request.getfixturevalue(kind)
    judge = DiscriminativePRM(folder, soft=True, wrong_label=1)
    text = "1+1=3.\n\nso\n\n2"
    (item,) = judge.judge([rollout(text)], 0)
    # By hand: <s>, problem, each step stripped and a newline after it; the classes at the three newlines.
    tokenizer = byte_tokenizer()
    model = (LlamaForTokenClassification if kind == "causal" else BertForTokenClassification).from_pretrained(folder)
    ids = [tokenizer.bos_token_id]
    for part in ("1+1?", "1+1=3.", "\n", "so", "\n", "2", "\n"):
        ids += tokenizer.encode(part, add_special_tokens=False)
    with torch.no_grad():
        wrong = model.eval()(input_ids=torch.tensor([ids])).logits[0].softmax(-1)[:, 1]
    newline = tokenizer.encode("\n")[0]
    expected = [float(p) for p, index in zip(wrong, ids, strict=True) if index == newline]
    assert len(expected) == 3
    assert item.verdict.step_error == pytest.approx(expected, abs=1e-5)
    assert item.spans == tuple(split_steps(text))
    (critique,) = item.critiques
    assert critique.wrong == {step for step, p in enumerate(expected) if p >= 0.5}
    assert critique.prompt_tokens == len(ids)
    assert critique.reply.split() == [f"{p:.4f}" for p in item.verdict.step_error]
    assert (item.verdict.valid, item.verdict.abstained) == (1, 0)


def test_the_threshold_makes_verdicts_of_0_and_1(causal):
    text = "a\n\nbb\n\nccc\n\ndddd\n\neeeee"
    (soft,) = DiscriminativePRM(causal, soft=True).judge([rollout(text)], 0)
    middle = sorted(soft.verdict.step_error)[2]
    (hard,) = DiscriminativePRM(causal, threshold=middle).judge([rollout(text)], 0)
    assert hard.verdict.step_error == tuple(float(p >= middle) for p in soft.verdict.step_error)
    assert sum(hard.verdict.step_error) == 3  # the middle one counts as wrong: at the threshold is above it
    # The two classes share the probability.
    (other,) = DiscriminativePRM(causal, soft=True, wrong_label=1).judge([rollout(text)], 0)
    assert [a + b for a, b in zip(soft.verdict.step_error, other.verdict.step_error, strict=True)] == pytest.approx(
        [1.0] * 5, abs=1e-6
    )


@pytest.mark.parametrize("kind", ["causal", "both_ways"])
def test_what_shares_a_batch_and_the_order_of_arrival_have_no_effect(kind, request):
    folder = request.getfixturevalue(kind)
    texts = ["a\n\nb", "cc", "", "ddd\n\nee\n\nf", "g\n\nh", "  \n"]
    rollouts = [rollout(text, row) for row, text in enumerate(texts)]
    alone = by_row(DiscriminativePRM(folder, soft=True, tokens_per_batch=1), rollouts)
    together = by_row(DiscriminativePRM(folder, soft=True), rollouts)
    for one, other in zip(alone, together, strict=True):
        assert one.verdict.step_error == pytest.approx(other.verdict.step_error, abs=1e-5)
    again = by_row(DiscriminativePRM(folder, soft=True), iter(rollouts[::-1]))
    assert [item.verdict for item in again] == [item.verdict for item in together]
    # An empty response has no steps and asks nobody; white space is one step.
    assert (together[2].critiques, together[2].verdict.step_error) == ((), ())
    assert len(together[5].verdict.step_error) == 1


# Full-width letters, which a normalizing tokenizer reads as KEY.
WIDE_KEY = "\uff2b\uff25\uff39"
HOSTILE = [
    "a\n\nb\nc\nd",  # separators within a step
    "\n\n\n\na.\n\n\n\nb.\n.\n\n",  # ".\n" is one token of this tokenizer
    "<s></s><|start|>x<|end|>\n\n<think>\n\n</s>",
    "KEY\n\nKEYKEY KKEYEY\n\nK",
    f"{WIDE_KEY}\u200b\n\n\ud800\x00",
    "{problem}\n\n{0}",
]


@pytest.mark.parametrize("separator", ["\n", "\n\n", "KEY", "</s>", "<think>", "  "])
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_forges_no_separator_and_no_control_token(causal, separator, text):
    judge = DiscriminativePRM(causal, separator=separator)
    seen = []
    judge._load()
    judge._module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"][0].tolist()), with_kwargs=True
    )
    (item,) = judge.judge([rollout(text, problem=text)], 0)
    tokenizer = byte_tokenizer()
    part = tokenizer.encode(separator, add_special_tokens=False)
    places = [start for start in range(len(seen[0])) if seen[0][start : start + len(part)] == part]
    assert len(places) == len(item.spans) == len(item.verdict.step_error) > 0
    assert places[-1] + len(part) == len(seen[0])
    control = set(tokenizer.all_special_ids) - set(part)
    assert [index for index in seen[0] if index in control] == [tokenizer.bos_token_id]


def test_a_tokenizer_that_makes_separators_of_other_characters_makes_none_of_the_policys(tmp_path):
    from tokenizers import normalizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    LlamaForTokenClassification(llama()).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer.encode(WIDE_KEY) == tokenizer.encode("KEY")
    judge = DiscriminativePRM(str(tmp_path), separator="KEY")
    (plain,) = judge.judge([rollout("ab\n\nc")], 0)
    (wide,) = judge.judge([rollout(f"a{WIDE_KEY}b\n\n{WIDE_KEY[:2]}{WIDE_KEY}{WIDE_KEY[2:]}c{WIDE_KEY}")], 0)
    assert wide.verdict == plain.verdict
    assert wide.critiques[0].prompt_tokens == plain.critiques[0].prompt_tokens


def test_an_input_that_is_too_long_abstains_and_the_others_are_judged(causal):
    rollouts = [rollout("x" * 200, 0), rollout("x\n\ny", 1), rollout("x" * 11, 2)]
    for judge, long in ((DiscriminativePRM(causal), {0}), (DiscriminativePRM(causal, max_model_len=16), {0, 2})):
        for item in by_row(judge, rollouts):
            abstains = item.rollout.row in long
            assert (item.verdict.valid, item.verdict.abstained) == ((0, 1) if abstains else (1, 0))
            if abstains:  # unjudged is not wrong: it costs nothing, and is counted
                assert set(item.verdict.step_error) == {0.0}
                assert item.critiques[0].wrong is None
                assert item.critiques[0].cause.startswith("error: an input of ")


def test_classes_that_are_no_numbers_abstain(causal):
    judge = DiscriminativePRM(causal, soft=True)
    judge._load()
    with torch.no_grad():
        judge._module.score.weight.fill_(float("nan"))
    (item,) = judge.judge([rollout("a")], 0)
    assert item.critiques[0].wrong is None
    assert item.verdict.step_error == (0.0,)


def test_the_steps_are_those_of_the_rollout(causal):
    given = replace(rollout("ab cd"), spans=((0, 3), (3, 5)))
    (item,) = DiscriminativePRM(causal).judge([given], 0)
    assert item.spans == ((0, 3), (3, 5))
    assert len(item.verdict.step_error) == 2


def test_models_that_are_no_judges_are_refused(tmp_path):
    missing = DiscriminativePRM(str(tmp_path / "nothing"))
    with pytest.raises(JudgeError, match=r"does not load.*critique\.judge"):
        list(missing.judge([], 0))
    untrained = save(tmp_path / "lm", LlamaForCausalLM(llama()))
    with pytest.raises(JudgeError, match=r"without score\.(bias|weight)"):
        list(DiscriminativePRM(untrained).judge([], 0))
    one = save(tmp_path / "one", LlamaForTokenClassification(llama(num_labels=1)))
    with pytest.raises(JudgeError, match="1 classes"):
        list(DiscriminativePRM(one).judge([], 0))


@pytest.mark.parametrize(
    "settings",
    [
        {"separator": ""}, {"separator": " "}, {"template": "no place"}, {"wrong_label": -1}, {"threshold": 0.0},
        {"threshold": 1.5}, {"tokens_per_batch": 0}, {"max_model_len": 0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        DiscriminativePRM("model", **settings)
