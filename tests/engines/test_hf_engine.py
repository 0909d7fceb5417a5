"""The transformers engine on a tiny random Llama: exact logprobs, own seeds, cancelling, errors of one request."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Request, as_completed
from capo_lit.engines.hf import HFEngine, sample_tokens, truncate
from tests.support.tiny_llama import EOS, LIMIT, build, gap, in_order, logits_of, perturb, requests


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    build(folder)
    return folder


@pytest.fixture
def model(path: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(path).eval()


@pytest.fixture
def engine(path: Path) -> Iterator[HFEngine]:
    engine = HFEngine(str(path), dtype="float32")
    yield engine
    engine.close()


def test_logprobs_are_those_of_the_model(engine: HFEngine, model: LlamaForCausalLM) -> None:
    asked = requests()
    completions = list(as_completed(engine, asked))
    assert {c.request_id for c in completions} == {r.request_id for r in asked}
    assert gap(model, asked, completions)[1] < 1e-4
    for completion in completions:
        assert "".join(completion.pieces) == completion.text
        ended = completion.ids[-1] == EOS
        assert completion.finish_reason == ("stop" if ended else "length")
        assert len(completion.ids) == 24 or ended
        assert EOS not in completion.ids[:-1]
        assert completion.special == tuple(index < 3 for index in completion.ids)
        assert completion.version is None
        assert completion.seconds > 0


def test_temperature_scales_logprobs(engine: HFEngine, model: LlamaForCausalLM) -> None:
    asked = requests(temperature=0.6)
    completions = list(as_completed(engine, asked))
    assert gap(model, asked, completions, temperature=0.6)[1] < 1e-4
    assert gap(model, asked, completions, temperature=1.0)[1] > 1e-2


def test_greedy_takes_the_likeliest_with_logprobs_at_temperature_1(engine: HFEngine, model: LlamaForCausalLM) -> None:
    asked = requests(4, temperature=0.0, top_k=1)
    completions = list(as_completed(engine, asked))
    assert gap(model, asked, completions)[1] < 1e-4
    for request, completion in zip(asked, in_order(completions), strict=True):
        assert tuple(logits_of(model, request, completion).argmax(-1).tolist()) == completion.ids


def test_a_result_does_not_depend_on_what_else_is_in_the_batch(path: Path, engine: HFEngine) -> None:
    asked = requests(12)
    together = in_order(list(as_completed(engine, asked)))
    # Three slots only, other neighbours, other padding; and one at a time, last first.
    few = HFEngine(str(path), dtype="float32")
    few.max_batch = 3
    narrow = in_order(list(as_completed(few, asked)))
    alone = in_order([completion for request in asked[::-1] for completion in as_completed(engine, [request])])
    for other in (narrow, alone):
        assert [c.ids for c in other] == [c.ids for c in together]
        for one, two in zip(other, together, strict=True):
            assert one.logprobs == pytest.approx(two.logprobs, abs=1e-4)


def test_seeds_decide_and_global_randomness_is_untouched(engine: HFEngine) -> None:
    state = torch.get_rng_state()
    first, second = (in_order(list(as_completed(engine, requests(8)))) for _ in range(2))
    assert [c.ids for c in first] == [c.ids for c in second]
    assert torch.equal(torch.get_rng_state(), state)
    # Requests 0 and 4 share a prompt and differ in the seed.
    assert first[0].ids != first[4].ids


def test_drawing_follows_the_distribution() -> None:
    # p = (0.5, 0.25, 0.25): u in [0, .5) is 0, [.5, .75) is 1, [.75, 1) is 2.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log().expand(4, 3)
    ids, logprobs = sample_tokens(logits, [Sampling()] * 4, torch.tensor([0.0, 0.49, 0.51, 0.99], dtype=torch.float64))
    assert ids.tolist() == [0, 0, 1, 2]
    assert logprobs.exp().tolist() == pytest.approx([0.5, 0.5, 0.25, 0.25])
    # Top 2 of (0.5, 0.3, 0.2) is (0.625, 0.375); with top_p 0.5 the first alone reaches the mass; greedy is not cut.
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(3, 3)
    ways = [Sampling(top_k=2), Sampling(top_p=0.5), Sampling(temperature=0, top_k=1)]
    ids, logprobs = sample_tokens(logits, ways, torch.tensor([0.99, 0.99, 0.99], dtype=torch.float64))
    assert ids.tolist() == [1, 0, 0]
    assert logprobs.exp().tolist() == pytest.approx([0.375, 1.0, 0.5])
    # A probability of zero is never drawn, not even by u = 0.
    ids, _ = sample_tokens(torch.tensor([[-torch.inf, 0.0]]), [Sampling()], torch.tensor([0.0], dtype=torch.float64))
    assert ids.tolist() == [1]


def test_truncation_keeps_the_smallest_set_that_reaches_p() -> None:
    # 0.2 + 0.5 + 0.3: p = 0.6 needs 0.5 and 0.3 (0.5 < 0.6 <= 0.8); p = 0.4 needs 0.5 alone; p = 1 cuts nothing.
    logits = torch.tensor([[0.2, 0.5, 0.3]]).double().log().expand(4, 3)
    kept = truncate(logits, torch.tensor([3, 3, 3, 1]), torch.tensor([0.6, 0.4, 1.0, 1.0])).isfinite()
    assert kept.tolist() == [[False, True, True], [False, True, False], [True] * 3, [False, True, False]]


def test_a_push_replaces_weights_and_stamps_the_version(engine: HFEngine, model: LlamaForCausalLM) -> None:
    asked = requests(8)
    before = in_order(list(as_completed(engine, asked)))
    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    perturb(model, seed=1)
    engine.load_weights(model.named_parameters(), version=3)
    after = list(as_completed(engine, asked))
    assert {c.version for c in after} == {3} == {engine.version}
    assert gap(model, asked, after)[1] < 1e-4
    assert [c.ids for c in in_order(after)] != [c.ids for c in before]
    engine.load_weights(original.items(), version=4)
    assert [c.ids for c in in_order(list(as_completed(engine, asked)))] == [c.ids for c in before]


def test_an_incomplete_push_is_an_error_and_stops_the_engine(engine: HFEngine, model: LlamaForCausalLM) -> None:
    named = list(model.named_parameters())
    with pytest.raises(EngineError, match=r"1 parameters missing.*1 unknown"):
        engine.load_weights([("policy.lm_head.weight", named[0][1]), *named[1:]], version=1)
    with pytest.raises(EngineError, match="some are version 1 and some None"):
        engine.submit(requests(1)[0]).result(0)
    engine.load_weights(named, version=2)
    assert next(as_completed(engine, requests(1))).version == 2


def test_a_push_is_refused_while_requests_are_in_flight(engine: HFEngine, model: LlamaForCausalLM) -> None:
    future = engine.submit(requests(1)[0])
    with pytest.raises(EngineError, match="1 requests in flight"):
        engine.load_weights(model.named_parameters(), version=1)
    future.cancel()
    engine.load_weights(model.named_parameters(), version=1)


def test_bad_requests_fail_alone(engine: HFEngine) -> None:
    good = engine.submit(requests(1)[0])
    sampling = Sampling(max_tokens=4)
    bad = {
        f"prompt of {LIMIT} tokens": Request("long", (3,) * LIMIT, sampling, 0),
        "token id 48": Request("outside", (3, 48), sampling, 0),
        "empty prompt": Request("empty", (), sampling, 0),
        "in flight already": requests(1)[0],
    }
    for message, request in bad.items():
        with pytest.raises(EngineError, match=message):
            engine.submit(request).result(0)
    while not good.done():
        engine.step()
    assert good.result().request_id == "r0"


def test_the_context_cuts_a_response(path: Path) -> None:
    engine = HFEngine(str(path), dtype="float32")
    engine.max_model_len = 12
    (completion,) = as_completed(engine, [Request("r0", (3,) * 10, Sampling(temperature=0.0), 0)])
    assert len(completion.ids) <= 2
    assert completion.prompt_tokens == 10


def test_cancelled_requests_free_their_slots(path: Path) -> None:
    engine = HFEngine(str(path), dtype="float32")
    engine.max_batch = 2
    futures = [engine.submit(request) for request in requests(4, tokens=200)]
    engine.step()
    assert not any(future.done() for future in futures)
    for future in futures[:3]:
        assert future.cancel()
    # Two were running and one waited: the fourth takes a slot at once, and the id of the first is free again.
    again = engine.submit(requests(1, tokens=2)[0])
    for _ in range(3):
        engine.step()
    assert again.done()
    futures[3].cancel()
    stream = as_completed(engine, requests(4, tokens=8))
    next(stream)
    stream.close()
    engine.load_weights(engine._module.named_parameters(), version=1)


def test_completions_come_as_they_finish(engine: HFEngine) -> None:
    asked = [Request(f"r{i}", (5, 9), Sampling(max_tokens=n), seed=7) for i, n in enumerate((12, 1, 6))]
    order = [completion.request_id for completion in as_completed(engine, asked)]
    assert order[0] == "r1"


def test_a_crash_reaches_every_future(engine: HFEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    futures = [engine.submit(request) for request in requests(3)]

    def crash(wave: object) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine, "_forward", crash)
    engine.step()
    for future in futures:
        with pytest.raises(EngineError, match="out of memory"):
            future.result(0)
    monkeypatch.undo()
    assert len(list(as_completed(engine, requests(3)))) == 3


def test_a_live_model_is_used_as_it_is(model: LlamaForCausalLM, path: Path) -> None:
    model.train()
    engine = HFEngine(model)
    perturb(model, seed=2)
    asked = requests(4)
    completions = list(as_completed(engine, asked))
    assert gap(model, asked, completions)[1] < 1e-4
    assert model.training
    # Pushing the model to itself changes nothing but the version, and the model can still be trained.
    engine.load_weights(model.named_parameters(), version=5)
    assert engine.version == 5
    model(input_ids=torch.tensor([[3, 4]]), labels=torch.tensor([[3, 4]])).loss.backward()


def test_chat_prompts_are_rendered(engine: HFEngine) -> None:
    # "w0 w7 w1 w2" by the template: ids 3, 10, 4, 5.
    chat = Request("r0", ({"role": "user", "content": "w7"},), Sampling(max_tokens=5), seed=1)
    plain = Request("r1", (3, 10, 4, 5), Sampling(max_tokens=5), seed=1)
    one, two = in_order(list(as_completed(engine, [chat, plain])))
    assert one.ids == two.ids
    assert one.prompt_tokens == 4


def test_settings_and_dtypes(path: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="does not load"):
        HFEngine(str(tmp_path)).submit(requests(1)[0])
    engine = HFEngine(str(path), dtype="bfloat16")
    assert engine.dtype == torch.bfloat16
    (completion,) = as_completed(engine, requests(1, tokens=3))
    assert engine.dtype == torch.bfloat16
    assert completion.ids
