"""The engine over HTTP among proxies, and base URLs as people write them; nothing leaves the machine."""

import os
import sys
from collections.abc import Iterator

import pytest

from capo_lit.core.errors import ConfigError, EngineError
from capo_lit.engines.base import as_completed
from capo_lit.engines.http.servers import checked_url, is_loopback, proxy_of
from capo_lit.genprm.judge import GenPRM
from tests.support.http_world import Make, ask, engines
from tests.support.judging import rollout
from tests.support.misbehaving_server import MisbehavingServer

ELSEWHERE = "http://judge.invalid/v1"
"""A server that is nowhere: only a proxy can answer for it."""


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def make() -> Iterator[Make]:
    with engines() as build:
        yield lambda *urls, **settings: build(*urls, **{"api_key_env": None, "max_retries": 0, **settings})


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_never_asked_for_a_server_on_loopback(
    make: Make, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with MisbehavingServer() as server, MisbehavingServer(mix={"status 502": 1.0}) as proxy:
        monkeypatch.setenv(variable, proxy.url.removesuffix("/v1"))
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):
            (answer,) = as_completed(make(server.url.replace("127.0.0.1", host)), [ask()])
            assert answer.text == "\\boxed{none}"
    assert (len(server.bodies), proxy.connections) == (3, 0)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "socks://127.0.0.1:9", "a:b"])
def test_a_proxy_that_cannot_be_used_is_one_line_and_does_not_touch_loopback(
    make: Make, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setitem(sys.modules, "socksio", None)  # as where it is not installed
    monkeypatch.setenv("ALL_PROXY", proxy)
    with MisbehavingServer() as server:
        assert len(list(as_completed(make(server.url), [ask()]))) == 1
    with pytest.raises(
        ConfigError, match=r"of ALL_PROXY .*Change: .*socksio.*unset ALL_PROXY.*=judge\.invalid"
    ) as caught:
        make(ELSEWHERE)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("NO_PROXY", ".invalid")
    make(ELSEWHERE)


@pytest.mark.parametrize(
    ("variable", "url"),
    [("HTTP_PROXY", ELSEWHERE), ("HTTPS_PROXY", "https://judge.invalid/v1"), ("all_proxy", ELSEWHERE)],
)
def test_errors_name_the_proxy_and_its_variable_but_not_its_password(
    make: Make, monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, "http://me:hunter2@127.0.0.1:9")
    engine = make(url)
    with pytest.raises(EngineError) as caught:
        list(as_completed(engine, [ask()]))
    said = str(caught.value)
    assert f"no connection to {url}" in said
    assert f"through the proxy http://...@127.0.0.1:9 of {variable}" in said
    assert f"or {variable}, or NO_PROXY=judge.invalid" in said
    assert "hunter2" not in said + repr(vars(engine))
    assert engine.failed_attempts == {"connection": 1}


def test_a_server_elsewhere_is_asked_through_the_proxy_and_its_refusal_names_it(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MisbehavingServer(script=("ok", "status 502")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.removeprefix("http://").removesuffix("/v1"))
        engine = make(ELSEWHERE)
        (answer,) = as_completed(engine, [ask()])
        assert answer.text == "\\boxed{none}"
        with pytest.raises(EngineError, match=r"HTTP 502 .*through the proxy http://127\.0\.0\.1:\d+ of HTTP_PROXY"):
            list(as_completed(engine, [ask()]))
    assert proxy.paths == ["http://judge.invalid/v1/chat/completions"] * 2


def test_which_proxy_a_server_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_of(ELSEWHERE) is None
    monkeypatch.setenv("ALL_PROXY", "http://all:1")
    monkeypatch.setenv("HTTP_PROXY", "http://big:1")
    assert proxy_of(ELSEWHERE) == ("http://big:1", "HTTP_PROXY")
    assert proxy_of("https://judge.invalid/v1") == ("http://all:1", "ALL_PROXY")
    monkeypatch.setenv("http_proxy", "small:1")
    assert proxy_of(ELSEWHERE) == ("http://small:1", "http_proxy")
    for hosts in ("judge.invalid", ".invalid", "*", "other.invalid, judge.invalid"):
        monkeypatch.setenv("NO_PROXY", hosts)
        assert proxy_of(ELSEWHERE) is None


def test_what_leads_to_this_machine() -> None:
    here = ["localhost", "LOCALHOST", "judge.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0", "localhost."]
    there = ["judge", "localhost.com", "127.example.com", "notlocalhost", "128.0.0.1", "[::2]", "10.0.0.1"]
    assert [host for host in here + there if is_loopback(f"http://{host}:8000/v1")] == here


def test_base_urls_are_trimmed_and_keep_their_query() -> None:
    for written in (" http://a:1/v1", "http://a:1/v1/\n", "\thttp://a:1/v1/chat/completions ", "http://a:1/v1#x"):
        assert checked_url(written) == "http://a:1/v1"
    assert checked_url("https://a/d/?api-version=1") == "https://a/d?api-version=1"


def test_a_query_goes_with_every_request_and_azure_s_with_its_header(make: Make) -> None:
    with MisbehavingServer() as server:
        for query in ("?api-version=2024-10-21", "?team=a+b&empty="):
            list(as_completed(make(f" {server.url}/{query} "), [ask()]))
    assert server.paths == ["/v1/chat/completions?api-version=2024-10-21", "/v1/chat/completions?team=a+b&empty="]
    assert [headers.get("api-key") for headers in server.headers] == ["no-key-needed", None]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"content": [{"type": "text", "text": "Wrong steps: "}, {"type": "text", "text": "\\boxed{1}"}]}, "end_turn"),
        ({"content": None, "reasoning_content": "\\boxed{1}"}, "stop"),
    ],
)
def test_a_judge_reads_the_verdict_in_parts_or_in_reasoning(
    make: Make, message: dict[str, object], reason: str
) -> None:
    with MisbehavingServer(reply=lambda body: {"message": message, "finish_reason": reason}) as server:
        (item,) = GenPRM(make(server.url), k=2, early_stop=False).judge([rollout()], 0)
    assert [critique.wrong for critique in item.critiques] == [{1}] * 2
