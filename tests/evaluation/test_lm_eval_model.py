"""lm-eval's view of an engine: scores of prompts, stop strings, truncation, seeds and refusals, on a random Llama."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaForCausalLM

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.base import Request
from capo_lit.engines.hf import HFEngine
from capo_lit.engines.scores import Pair
from capo_lit.evaluation.benchmarks.model import EngineLM
from tests.support.scripted_engine import ScriptedEngine
from tests.support.tiny_llama import EOS, build, run

CONTEXT = 40


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[HFEngine]:
    engine = HFEngine(str(path), dtype="float32")
    engine.max_model_len = CONTEXT
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def model(path: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path).eval()


def asked(*arguments: Any, idx: int = 0, doc: int = 0) -> Instance:
    return Instance("generate_until", {}, arguments, idx, metadata=("task", doc, 1))


def words(count: int, start: int = 0) -> str:
    return " ".join(f"w{(7 * place + start) % 45}" for place in range(count))


@torch.no_grad()
def logprob(model: LlamaForCausalLM, pair: Pair) -> float:
    context, continuation = pair
    logits = model(torch.tensor([[*context, *continuation]])).logits[0].log_softmax(-1)
    return sum(float(logits[len(context) - 1 + place, token]) for place, token in enumerate(continuation))


def test_scores_are_the_models_logprobs_in_the_order_asked(engine: HFEngine, model: LlamaForCausalLM) -> None:
    # Shorter than the longest by different amounts: the padding of a batch must not be seen.
    pairs = [(tuple(range(3, 3 + n)), tuple(range(9, 9 + m))) for n, m in ((1, 1), (12, 3), (2, 9), (25, 2), (5, 1))]
    scores = engine.score(pairs)
    assert [score.logprob for score in scores] == pytest.approx([logprob(model, pair) for pair in pairs], abs=1e-4)


def test_greedy_is_said_of_greedy_text_alone(engine: HFEngine) -> None:
    prompt = (5, 9, 20)
    (written,) = run(engine, [Request("r0", prompt, Sampling(temperature=0.0, max_tokens=6), 0)])
    other = (*written.ids[:3], (written.ids[3] + 1) % 45, *written.ids[4:])
    assert [score.greedy for score in engine.score([(prompt, written.ids), (prompt, other)])] == [True, False]


def test_scores_of_a_model_in_training_leave_it_in_training(path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(path).train()
    pair = ((3, 4), (5,))
    HFEngine(model).score([pair])
    assert model.training


@pytest.mark.parametrize(
    ("pair", "got"),
    [(((), (3,)), "a context of 0"), (((3,), ()), "a continuation of 0"), (((3,) * 40, (3, 4)), "a context of 40")],
)
def test_pairs_that_cannot_be_scored_are_refused(engine: HFEngine, pair: Pair, got: str) -> None:
    assert len(engine.score([((3,) * 40, (3,))])) == 1  # one token more than the model reads: it need not read the last
    with pytest.raises(EngineError, match=got):
        engine.score([pair])


def test_scores_are_refused_while_requests_are_in_flight(path: Path) -> None:
    engine = HFEngine(str(path), dtype="float32")
    future = engine.submit(Request("r0", (3, 4), Sampling(max_tokens=4), 0))
    with pytest.raises(EngineError, match="1 requests in flight"):
        engine.score([((3,), (4,))])
    future.cancel()
    assert engine.score([((3,), (4,))])[0].logprob < 0


def test_a_stop_string_ends_a_response_and_stays_in_it(engine: HFEngine) -> None:
    prompt, drawn = (5, 9, 20), Sampling(temperature=0.0, max_tokens=20)
    (free,) = run(engine, [Request("r0", prompt, drawn, 0)])
    pieces = free.text.split(" ")
    # Over a border between two words, where no token ends alone.
    stop = f"{pieces[4]} {pieces[5][:2]}"
    (ended,) = run(engine, [Request("r0", prompt, drawn, 0, stop=("never", stop))])
    end = free.text.index(stop) + len(stop)
    assert (ended.finish_reason, ended.ids) == ("stop", free.ids[: len(ended.ids)])
    assert free.text.startswith(ended.text)
    assert end <= len(ended.text) < end + len(pieces[5])


def test_answers_end_before_the_first_stop_string(engine: HFEngine) -> None:
    lm = EngineLM(engine)
    (free,) = lm.generate_until([asked("w2 w6 w17", {"until": [], "max_gen_toks": 20})])
    pieces = free.split(" ")
    until = [pieces[7], f" {pieces[4]}"]
    (cut,) = lm.generate_until([asked("w2 w6 w17", {"until": until, "max_gen_toks": 20})])
    assert cut == min((free.split(stop)[0] for stop in until), key=len)


def test_a_context_that_is_too_long_loses_its_beginning(engine: HFEngine) -> None:
    lm = EngineLM(engine)
    long, arguments = words(60), {"max_gen_toks": 10}
    kept = " ".join(long.split()[-(CONTEXT - 10) :])
    assert lm.generate_until([asked(long, arguments)]) == lm.generate_until([asked(kept, arguments)])
    (whole,) = lm.loglikelihood([asked(long, " w1 w2")])
    kept = " ".join(long.split()[-(CONTEXT + 1 - 2) :])
    assert lm.loglikelihood([asked(kept, " w1 w2")]) == [whole]


def test_a_rolling_score_predicts_every_token_once(engine: HFEngine, model: LlamaForCausalLM) -> None:
    lm, text = EngineLM(engine, max_length=8), words(20)
    ids = lm.tok_encode(text)
    # Windows of 8: tokens 0-7 after the end token, 8-15 after token 7, 16-19 after tokens 11-15.
    pairs = [([EOS], ids[:8]), (ids[7:8], ids[8:16]), (ids[11:16], ids[16:])]
    expected = sum(logprob(model, pair) for pair in pairs)
    assert lm.loglikelihood_rolling([asked(text)]) == pytest.approx([expected], abs=1e-3)


def test_sampled_answers_depend_on_document_and_repeat_alone(engine: HFEngine) -> None:
    arguments = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 12}
    batch = [asked("w1 w2", arguments, doc=doc) for doc in (0, 0, 1)]  # the first document twice: two repeats
    answers = EngineLM(engine).generate_until(batch)
    assert len(set(answers)) == 3
    assert EngineLM(engine).generate_until(batch[::-1]) == [answers[2], answers[0], answers[1]]
    assert EngineLM(engine, seed=1).generate_until(batch) != answers


def test_ways_of_drawing_that_engines_lack_are_refused(engine: HFEngine) -> None:
    with pytest.raises(ConfigError, match="repetition_penalty"):
        EngineLM(engine).generate_until([asked("w1", {"repetition_penalty": 1.1})])
    with pytest.raises(ConfigError, match=r"max_gen_toks 40.*less than the 40 tokens"):
        EngineLM(engine).generate_until([asked("w1", {"max_gen_toks": 40})])
    with pytest.raises(ConfigError, match="ScriptedEngine"):
        EngineLM(ScriptedEngine(["no"]))


def test_chat_messages_are_rendered_by_the_models_template(engine: HFEngine) -> None:
    lm = EngineLM(engine)
    messages = [{"role": "user", "content": "w7"}]
    assert lm.apply_chat_template(messages) == "w0 w7 w1 w2"
    engine.tokenizer.chat_template, kept = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }} "
        "{% endfor %}",
        engine.tokenizer.chat_template,
    )
    try:
        assert lm.apply_chat_template([{"role": "system", "content": "w9"}, *messages]) == "w7 "
    finally:
        engine.tokenizer.chat_template = kept
