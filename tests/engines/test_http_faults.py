"""The engine over HTTP when servers fail: retries, pauses, deadlines, and several servers."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from capo_lit.core.errors import EngineError
from capo_lit.engines.base import as_completed
from capo_lit.engines.http.protocol import status_error
from tests.support.http_world import CAUSES, FREE_PORT, Make, ask, engines, wait_for
from tests.support.misbehaving_server import EVEN_30, FAULTS, MisbehavingServer


@pytest.fixture
def make() -> Iterator[Make]:
    with engines() as build:
        yield build


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_tried_again(make: Make, fault: str) -> None:
    with MisbehavingServer(script=(fault,)) as server:
        engine = make(server.url, timeout_s=1.0 if fault == "hang" else 20.0)
        (answer,) = as_completed(engine, [ask()])
        assert answer.text == "\\boxed{none}"
        assert engine.failed_attempts == {CAUSES[fault]: 1}
        assert server.bodies[0] == server.bodies[1]
        # An attempt that is given up closes its connection.
        assert wait_for(lambda: server.disconnects == (fault == "hang") and server.running == 0)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_stays_fails_that_request_alone(make: Make, fault: str) -> None:
    with MisbehavingServer(mix={fault: 1.0}) as bad, MisbehavingServer() as good:
        engine = make(bad.url, timeout_s=0.3 if fault == "hang" else 20.0, max_retries=2)
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"request 'r0': got .* at attempt 3; expected a chat completion"):
            list(as_completed(engine, [ask()]))
        # 3 attempts of at most 0.3 s each, and 2 pauses of at most 0.05 s.
        assert time.monotonic() - started < 3.0
        assert len(bad.bodies) == 3
        assert engine.failed_attempts == {CAUSES[fault]: 3}
        assert len(list(as_completed(make(good.url), [ask()]))) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_is_the_request_s_own_fault_is_not_tried_again(make: Make, status: int) -> None:
    with MisbehavingServer(script=(f"status {status}",)) as server:
        engine = make(server.url)
        bad, good = engine.submit(ask(0)), engine.submit(ask(1))
        assert wait_for(lambda: bad.done() and good.done())
    failed = bad if bad.exception() else good
    assert f"HTTP {status}" in str(failed.exception())
    assert len(server.bodies) == 2


def test_retry_after_is_honoured_up_to_a_minute(make: Make) -> None:
    with MisbehavingServer(script=("status 429",), retry_after="0.4") as server:
        engine = make(server.url)
        list(as_completed(engine, [ask()]))
    first, second = server.arrivals
    assert second - first >= 0.4
    soon = datetime.now(UTC) + timedelta(seconds=30)
    by_date = status_error(503, {"retry-after": format_datetime(soon, usegmt=True)}, b"")
    assert 28 < by_date.retry_after <= 30
    for nonsense in ("soon", "", "nan", "inf", "Wed, 99 Nov 2026"):
        assert status_error(429, {"retry-after": nonsense}, b"").retry_after is None
    assert status_error(429, {"retry-after": "-3"}, b"").retry_after == 0


@pytest.mark.slow
def test_a_server_of_which_a_third_of_the_replies_is_bad(make: Make) -> None:
    # 0.3 ** 9 per request: with this seed every request gets through.
    with MisbehavingServer(mix=EVEN_30, seed=1) as server:
        engine = make(server.url, timeout_s=0.5, max_retries=8)
        asked = [ask(index) for index in range(60)]
        answers = list(as_completed(engine, asked))
    assert sorted(answer.request_id for answer in answers) == sorted(request.request_id for request in asked)
    assert sum(engine.failed_attempts.values()) >= sum(server.replies[fault] for fault in FAULTS) > 10
    # A busy machine may see a timeout in the place of another fault, and never anything else.
    for fault in ("status 500", "status 429", "empty", "cut"):
        assert engine.failed_attempts[CAUSES[fault]] <= server.replies[fault]


def test_servers_share_the_load(make: Make) -> None:
    with MisbehavingServer(delay_s=0.3) as one, MisbehavingServer(delay_s=0.3) as two:
        engine = make(one.url, two.url, max_concurrency=8)
        assert len(list(as_completed(engine, [ask(index) for index in range(32)]))) == 32
        assert min(one.most_running, two.most_running) >= 3
        assert min(len(one.bodies), len(two.bodies)) >= 12


def test_a_slow_server_gets_less(make: Make) -> None:
    with MisbehavingServer(delay_s=0.3) as slow, MisbehavingServer(delay_s=0.01) as fast:
        engine = make(slow.url, fast.url, max_concurrency=4)
        assert len(list(as_completed(engine, [ask(index) for index in range(32)]))) == 32
        assert len(slow.bodies) <= 12


def test_a_dead_server_draws_no_load(make: Make) -> None:
    with MisbehavingServer(delay_s=0.01) as alive:
        engine = make(FREE_PORT, alive.url, max_concurrency=4)
        assert len(list(as_completed(engine, [ask(index) for index in range(32)]))) == 32
        # It fails at once and so never has anything outstanding; without its rest it would be asked every time.
        assert 1 <= engine.failed_attempts["connection"] <= 8


def test_a_server_that_is_not_there_is_named(make: Make) -> None:
    with pytest.raises(EngineError, match=r"no connection to http://127\.0\.0\.1:9/v1.*attempt 2.*Change: base_urls"):
        list(as_completed(make(FREE_PORT, max_retries=1), [ask()]))
