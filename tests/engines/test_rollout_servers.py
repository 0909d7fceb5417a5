"""Rollouts from servers, against scripted ones: who is asked what, and what every failure becomes."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from capo_lit.batch.facts import Completion
from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.base import Request
from capo_lit.engines.servers import VLLMServers
from capo_lit.engines.servers import fleet as fleet_module
from tests.support.http_world import wait_for
from tests.support.scripted_rollout_server import FAULTS, GENERATE, ScriptedRolloutServer
from tests.support.shared import shared
from tests.support.tiny_llama import MAX_LEN, build, requests, run

PUSH = [
    "/pause", "/init_weight_transfer_engine", "/start_weight_update", "/update_weights", "/finish_weight_update",
    "/reset_prefix_cache", "/resume", "/weight_info",
]  # fmt: skip
CAUSES = {
    **dict.fromkeys(FAULTS, "unreadable"),
    **{"status 500": "status 500", "cut": "connection", "hang": "timeout", "stale": "stale", "two versions": "stale"},
}

Make = Callable[..., VLLMServers]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shared(tmp_path_factory, "words_llama", build)


@pytest.fixture
def model(folder: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(folder)


@pytest.fixture
def make(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Engines on servers, closed at the end; they look at their servers often."""
    monkeypatch.setattr(fleet_module, "_LOOK_S", 0.1)
    made: list[VLLMServers] = []

    def build_engine(*servers: ScriptedRolloutServer, **settings: object) -> VLLMServers:
        urls = [server.url for server in servers]
        given = {
            "dtype": "float32",
            "max_model_len": MAX_LEN,
            "transfer": str(tmp_path / "weights"),
            "timeout_s": 10.0,
        }
        made.append(VLLMServers(str(folder), urls, **{**given, **settings}))
        return made[-1]

    yield build_engine
    for engine in made:
        engine.close()


@contextmanager
def servers(count: int, **settings: object) -> Iterator[list[ScriptedRolloutServer]]:
    started = [ScriptedRolloutServer(**settings) for _ in range(count)]
    for server in started:
        server.start()
    try:
        yield started
    finally:
        for server in started:
            if not server.closing.is_set():
                server.stop()


def told(completions: list[Completion]) -> list[tuple[object, ...]]:
    return [(one.ids, one.logprobs, one.finish_reason, one.version) for one in completions]


def test_a_push_pauses_replaces_resets_and_goes_on(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=3)
        calls = [call for call in server.calls if call not in ("/health", "/server_info")]
        assert calls[1:9] == PUSH  # the first is the look at a server of others
        assert not server.paused
        assert re.fullmatch(r"[0-9a-f]{8}:3", server.stamp)
        assert server.tensors.keys() == dict(model.named_parameters()).keys()
        for name, tensor in model.named_parameters():
            assert torch.equal(server.tensors[name], tensor), name


def test_a_completion_has_ids_text_logprobs_and_version(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=7)
        (completion,) = run(engine, [Request("r0", (5, 6), Sampling(max_tokens=4), seed=11)])
        (body,) = server.asked
    assert body["token_ids"] == [5, 6]
    params = body["sampling_params"]
    assert (params["seed"], params["logprobs"], params["max_tokens"]) == (11, 0, 4)
    assert (len(completion.ids), completion.version, completion.prompt_tokens) == (4, 7, 2)
    assert "".join(completion.pieces) == completion.text != ""
    assert completion.logprobs == tuple(-one / 10 for one in completion.ids)
    assert engine.prompt_tokens == 2


def test_the_rollouts_of_a_prompt_go_to_one_server(make: Make, model: LlamaForCausalLM):
    with servers(2, delay_s=0.02) as both:
        engine = make(*both)
        engine.load_weights(model.named_parameters(), version=0)
        run(engine, requests(32))
        prompts = [{tuple(body["token_ids"]) for body in server.asked} for server in both]
    assert prompts[0].isdisjoint(prompts[1])
    assert [len(found) for found in prompts] == [2, 2]


def test_they_spill_over_while_their_server_has_no_free_slot(make: Make, model: LlamaForCausalLM):
    one_prompt = [Request(f"r{index}", (5, 6, 7), Sampling(max_tokens=4), seed=index) for index in range(12)]
    with servers(2, delay_s=0.3) as both:
        engine = make(*both, max_num_seqs=3)
        engine.load_weights(model.named_parameters(), version=0)
        run(engine, one_prompt)
        assert [server.most_running <= 3 for server in both] == [True, True]
        assert sorted(len(server.asked) for server in both)[0] >= 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_attempt_is_asked_again_with_its_seed(make: Make, model: LlamaForCausalLM, fault: str):
    with servers(2) as both:
        engine = make(*both, timeout_s=1.0 if fault == "hang" else 10.0)
        engine.load_weights(model.named_parameters(), version=1)
        whole = run(engine, requests(8))
        for server in both:
            server.fail(GENERATE, fault)
        assert told(run(engine, requests(8))) == told(whole)
    assert set(engine.failed_attempts) == {CAUSES[fault]}
    assert engine.failed_attempts[CAUSES[fault]] >= 1


def test_a_request_that_servers_refuse_fails_alone_and_at_once(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=0)
        server.fail(GENERATE, "status 400")
        futures = [engine.submit(Request("bad", (5,), Sampling(max_tokens=2), seed=0))]
        assert wait_for(futures[0].done)
        with pytest.raises(EngineError, match=r"HTTP 400.*at attempt 1"):
            futures[0].result()
        assert len(run(engine, requests(4))) == 4


def test_a_server_that_dies_and_comes_back_is_given_the_weights_again(make: Make, model: LlamaForCausalLM):
    with servers(2, delay_s=0.05) as both:
        engine = make(*both, max_num_seqs=2)
        engine.load_weights(model.named_parameters(), version=1)
        whole = run(engine, requests(24))
        futures = [engine.submit(request) for request in requests(24)]
        assert wait_for(lambda: both[0].running > 0)
        both[0].stop()
        assert wait_for(lambda: all(future.done() for future in futures), 20)
        assert told([future.result() for future in futures]) == told(whole)
        both[0].start()
        assert both[0].stamp == "default"
        assert wait_for(lambda: both[0].stamp == both[1].stamp, 10)
        assert both[0].tensors.keys() == both[1].tensors.keys()
        assert wait_for(lambda: all(member.ready for member in engine.fleet.members))
        assert told(run(engine, requests(24))) == told(whole)


def test_all_servers_may_be_gone_for_a_while(make: Make, model: LlamaForCausalLM):
    with servers(1, delay_s=0.05) as (server,):
        engine = make(server, timeout_s=20.0)
        engine.load_weights(model.named_parameters(), version=1)
        whole = run(engine, requests(8))
        server.stop()
        futures = [engine.submit(request) for request in requests(8)]
        time.sleep(0.3)
        assert not any(future.done() for future in futures)
        server.start()
        assert wait_for(lambda: all(future.done() for future in futures), 15)
        assert told([future.result() for future in futures]) == told(whole)


def test_without_any_server_a_request_ends_at_the_deadline(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server, timeout_s=0.5)
        engine.load_weights(model.named_parameters(), version=1)
        server.stop()
        future = engine.submit(requests(1)[0])
        assert wait_for(future.done, 10)
        with pytest.raises(EngineError, match=rf"{re.escape(server.url)}: got no working server: none ready in 0\.5 s"):
            future.result()


@pytest.mark.parametrize("route", ["/start_weight_update", "/update_weights", "/finish_weight_update", "/resume"])
@pytest.mark.parametrize("fault", ["status 500", "cut"])
def test_a_push_that_fails_half_way_is_made_again(make: Make, model: LlamaForCausalLM, route: str, fault: str):
    with servers(2) as both:
        engine = make(*both)
        engine.load_weights(model.named_parameters(), version=1)
        both[1].fail(route, fault)
        engine.load_weights(model.named_parameters(), version=2)
        whole = run(engine, requests(8))  # of the other one alone, or of both
        assert {one.version for one in whole} == {2}
        assert wait_for(lambda: both[0].stamp == both[1].stamp and not both[1].updating and not both[1].paused, 10)
        assert wait_for(lambda: all(member.ready for member in engine.fleet.members))
        assert told(run(engine, requests(8))) == told(whole)


def test_an_update_that_a_dead_trainer_left_open_is_ended(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        server.paused = server.updating = True
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=1)
        assert len(run(engine, requests(4))) == 4


def test_no_push_while_requests_are_in_flight(make: Make, model: LlamaForCausalLM):
    with servers(1, delay_s=0.2) as (server,):
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=0)
        future = engine.submit(requests(1)[0])
        with pytest.raises(EngineError, match="1 requests in flight"):
            engine.load_weights(model.named_parameters(), version=1)
        assert wait_for(future.done)
        assert future.result().version == 0


def test_weights_that_are_not_the_models_never_reach_a_server(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server)
        with pytest.raises(EngineError, match=r"1 parameters missing.*1 unknown"):
            engine.load_weights([("strange", torch.zeros(2)), *list(model.named_parameters())[1:]], version=0)
        assert "/pause" not in server.calls
        with pytest.raises(EngineError, match="without the policy's weights"):
            engine.submit(requests(1)[0]).result()
        engine.load_weights(model.named_parameters(), version=0)
        assert len(run(engine, requests(2))) == 2


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"logprobs_mode": "raw_logprobs"}, "raw_logprobs; expected processed_logprobs"),
        ({"dtype": "torch.bfloat16"}, "dtype bfloat16; expected float32"),
        ({"max_model_len": 64}, "max_model_len 64; expected 160"),
    ],
)
def test_a_server_of_others_with_other_settings_is_refused(
    make: Make, model: LlamaForCausalLM, settings: dict[str, object], found: str
):
    with servers(1, **settings) as (server,), pytest.raises(EngineError, match=found):
        make(server).load_weights(model.named_parameters(), version=0)


def test_a_server_without_routes_for_weights_is_refused(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        server.fail("/weight_info", "status 404")
        with pytest.raises(EngineError, match="VLLM_SERVER_DEV_MODE=1"):
            make(server).load_weights(model.named_parameters(), version=0)


def test_a_prompt_without_room_is_refused_before_it_is_sent(make: Make, model: LlamaForCausalLM):
    with servers(1) as (server,):
        engine = make(server)
        engine.load_weights(model.named_parameters(), version=0)
        with pytest.raises(EngineError, match="a prompt of 160 tokens; expected fewer than max_model_len 160"):
            engine.submit(Request("long", (5,) * 160, Sampling(max_tokens=2), seed=0)).result()
        assert server.asked == []


def test_a_cancelled_request_frees_its_slot(make: Make, model: LlamaForCausalLM):
    with servers(1, delay_s=0.3) as (server,):
        engine = make(server, max_num_seqs=1)
        engine.load_weights(model.named_parameters(), version=0)
        first, second, third = (engine.submit(request) for request in requests(3))
        second.cancel()
        assert wait_for(third.done)
        assert first.done()
        assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("settings", "setting"),
    [({"servers": 0}, "servers"), ({"servers": []}, "servers"), ({"dtype": "float16"}, "dtype"),
     ({"transfer": "pigeon"}, "transfer"), ({"max_num_seqs": 0}, "max_num_seqs"), ({"timeout_s": 0}, "timeout_s")],
)  # fmt: skip
def test_settings_that_cannot_be_used_name_themselves(folder: Path, settings: dict[str, object], setting: str):
    with pytest.raises(ConfigError, match=f"Change: .*{setting}"):
        VLLMServers(str(folder), **{"servers": 1, **settings})


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without GPUs cannot do")
def test_gpus_and_nccl_need_gpus(folder: Path):
    with pytest.raises(ConfigError, match="nccl without a GPU"):
        VLLMServers(str(folder), transfer="nccl")
    with pytest.raises(ConfigError, match="without GPUs"):
        VLLMServers(str(folder), 2, gpus=["6", "7"])
