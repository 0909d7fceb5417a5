"""The engine over HTTP against a real loopback server: what is sent and read, waiting, cancelling, closing."""

import time
from collections.abc import Iterator
from threading import enumerate as threads

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.core.errors import EngineError
from capo_lit.engines.base import Request, as_completed
from tests.support.http_world import Make, ask, engines, wait_for
from tests.support.misbehaving_server import MisbehavingServer
from tests.support.process_world import world


@pytest.fixture
def make() -> Iterator[Make]:
    with engines() as build:
        yield build


def test_a_completion_says_what_the_server_said(make: Make) -> None:
    with MisbehavingServer(reply=lambda body: "three little words") as server:
        engine = make(server.url + "/")
        (answer,) = as_completed(engine, [ask(7, temperature=0.5, top_p=0.9, max_tokens=33)])
    assert answer.text == "three little words"
    assert (answer.ids, answer.pieces, answer.special, answer.logprobs) == ((), (), (), None)
    assert (answer.prompt_tokens, answer.completion_tokens) == (11, 3)  # by the server's usage
    assert (answer.request_id, answer.finish_reason, answer.version) == ("r7", "stop", None)
    assert 0 < answer.seconds < 20
    assert engine.version is None
    assert engine.prompt_tokens == 11
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hello 7"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 33,
            "seed": 7,
        }
    ]


def test_extra_fields_win_and_null_takes_one_out(make: Make) -> None:
    extra = {"top_p": None, "seed": 5, "chat_template_kwargs": {"enable_thinking": False}}
    with MisbehavingServer() as server:
        list(as_completed(make(server.url, extra=extra), [ask(top_k=4)]))
    (body,) = server.bodies
    assert body["top_k"] == 4
    assert "top_p" not in body
    assert body["seed"] == 5
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_the_key_comes_from_the_environment_and_stays_out_of_errors(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MisbehavingServer(script=("ok", "ok", "status 401")) as server:
        list(as_completed(make(server.url), [ask()]))
        monkeypatch.setenv("JUDGE_KEY", "sk-very-secret\n")
        engine = make(server.url, api_key_env="JUDGE_KEY")
        list(as_completed(engine, [ask()]))
        with pytest.raises(EngineError, match=r"HTTP 401 .*you sent Bearer \(key\).*api_key_env") as caught:
            list(as_completed(engine, [ask()]))
    sent = [headers["authorization"] for headers in server.headers]
    assert sent == ["Bearer no-key-needed", "Bearer sk-very-secret", "Bearer sk-very-secret"]
    error: BaseException | None = caught.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__
    assert "secret" not in repr(vars(engine))


def test_step_waits_for_the_server_and_never_longer_than_it_may(make: Make) -> None:
    with MisbehavingServer(delay_s=0.3) as server:
        engine = make(server.url)
        started = time.monotonic()
        engine.step(5.0)  # nothing in flight
        assert time.monotonic() - started < 0.2
        future = engine.submit(ask())
        started = time.monotonic()
        engine.step(0.05)
        assert 0.04 < time.monotonic() - started < 0.25
        assert not future.done()
        engine.step(10.0)
        assert future.done()
        assert time.monotonic() - started < 5
        # What finished between two steps is not waited for again.
        late = [engine.submit(ask(1)), engine.submit(ask(2))]
        assert wait_for(lambda: all(one.done() for one in late))
        server.delay_s = 30
        pending = engine.submit(ask(3))
        started = time.monotonic()
        engine.step(10.0)
        assert time.monotonic() - started < 0.25
        # But only once.
        started = time.monotonic()
        engine.step(0.1)
        assert time.monotonic() - started > 0.09
        pending.cancel()


def test_cancelling_closes_the_connection_and_frees_the_slot(make: Make) -> None:
    with MisbehavingServer(script=("hang",)) as server:
        engine = make(server.url, max_concurrency=1)
        running, queued, last = (engine.submit(ask(index)) for index in range(3))
        assert wait_for(lambda: server.running == 1)
        assert queued.cancel()
        assert running.cancel()
        assert wait_for(lambda: server.disconnects == 1)
        assert last.result(5).request_id == "r2"
        # The one that waited for a slot was never sent.
        assert [body["messages"][0]["content"] for body in server.bodies] == ["hello 0", "hello 2"]
        # A cancelled request's id is free again.
        assert engine.submit(ask(0)).result(5).request_id == "r0"


def test_an_abandoned_iterator_leaves_nothing_in_the_server(make: Make) -> None:
    with MisbehavingServer(script=("ok", *["hang"] * 7)) as server:
        stream = as_completed(make(server.url), [ask(index) for index in range(8)])
        next(stream)
        assert wait_for(lambda: server.running == 7)
        stream.close()
        assert wait_for(lambda: server.running == 0)
        assert server.disconnects == 7


def test_concurrency_is_bounded_and_connections_are_reused(make: Make) -> None:
    with MisbehavingServer(delay_s=0.03) as server:
        engine = make(server.url, max_concurrency=3)
        assert len(list(as_completed(engine, [ask(index) for index in range(24)]))) == 24
        assert server.most_running == 3
        assert server.connections == 3


def test_prompts_of_ids_empty_prompts_and_ids_in_flight_are_refused(make: Make) -> None:
    with MisbehavingServer(delay_s=30) as server:
        engine = make(server.url)
        engine.submit(ask(0))
        for message, request in {
            "token ids.*chat messages": Request("a", (1, 2), Sampling(), 0),
            "empty prompt": Request("b", (), Sampling(), 0),
            "in flight already": ask(0),
        }.items():
            with pytest.raises(EngineError, match=message):
                engine.submit(request).result(0)


def test_closing_fails_what_is_in_flight_and_a_later_request_starts_anew(make: Make) -> None:
    others = set(threads())  # of tests before this one

    def ours() -> list[str]:
        names = [thread.name for thread in threads() if thread not in others]
        return [name for name in names if name.startswith(("http engine", "AnyIO"))]

    with MisbehavingServer(script=("hang", "hang")) as server:
        engine = make(server.url, max_concurrency=2)
        futures = [engine.submit(ask(index)) for index in range(3)]
        assert wait_for(lambda: server.running == 2)
        assert ours()
        started = time.monotonic()
        engine.close()
        assert time.monotonic() - started < 2
        for future in futures:
            with pytest.raises(EngineError, match="engine that was closed"):
                future.result(0)
        assert wait_for(lambda: server.running == 0 and not ours())
        engine.step(5.0)  # returns at once: nothing is in flight
        assert engine.submit(ask(9)).result(5).request_id == "r9"
        engine.close()
        engine.close()
        # Idle connections, kept for the next request, are closed as well.
        assert wait_for(lambda: server.open_connections == 0 and not ours())


def test_the_trainer_s_random_states_are_left_alone(make: Make) -> None:
    before = world()
    with MisbehavingServer(script=("status 500", "status 500")) as server:
        list(as_completed(make(server.url), [ask()]))
    assert world() == before
