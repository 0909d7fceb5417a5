"""The chat-completions protocol without a server: what counts as an answer, pauses, settings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.engines.http import HTTPEngine
from capo_lit.engines.http.protocol import AttemptError, read_reply
from capo_lit.errors import ConfigError
from tests.http_world import FREE_PORT
from tests.misbehaving_server import completion


@given(asked=st.none() | st.floats(0, 1e12), attempt=st.integers(1, 10**6))
def test_no_pause_is_shorter_than_asked_or_longer_than_a_minute(asked: float | None, attempt: int) -> None:
    pause = HTTPEngine("m", [FREE_PORT])._pause(attempt, asked)
    assert min(asked or 0.0, 60.0) <= pause <= max(8.0, min(asked or 0.0, 60.0))
    assert pause > 0


def test_the_bound_on_a_request_counts_every_attempt_and_pause() -> None:
    # 3 attempts of 10 s and 2 pauses of 60 s.
    assert HTTPEngine("m", [FREE_PORT], timeout_s=10, max_retries=2).longest_s == 150


def test_what_counts_as_an_answer() -> None:
    def read(**change: object) -> object:
        return read_reply(json.dumps({**completion("text"), **change}).encode(), "r", 0.0)

    def choice(content: object, reason: object = "stop") -> list[dict[str, object]]:
        return [{"message": {"content": content}, "finish_reason": reason}]

    answer, cached = read()
    assert (answer.text, cached) == ("text", 0)
    answer, cached = read(usage={"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}})
    assert (answer.prompt_tokens, answer.completion_tokens, cached) == (9, None, 5)
    for usage in (None, [], {"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": True}):
        answer, _ = read(usage=usage)
        assert (answer.prompt_tokens, answer.completion_tokens) == (0, None)
    # Cut while the model was still thinking: no content, and that is no fault of the server.
    answer, _ = read(choices=choice(None, "length"))
    assert (answer.text, answer.finish_reason) == ("", "length")
    # Half a surrogate pair could not be written to any file.
    answer, _ = read(choices=choice("a\ud800b"))
    assert answer.text == "a?b"
    for bad in (choice(None, None), choice("x", "abort"), choice(["x"]), choice(3), [], None, "choices", [None]):
        with pytest.raises(AttemptError) as caught:
            read(choices=bad)
        assert (caught.value.cause, caught.value.final) == ("unreadable", False)
    with pytest.raises(AttemptError, match="content_filter") as caught:
        read(choices=choice("", "content_filter"))
    assert caught.value.final


@given(st.binary(max_size=60) | st.text('[]{}",:0', max_size=60).map(str.encode) | st.just(b"[" * 100_000))
def test_no_body_is_more_than_an_unreadable_one(content: bytes) -> None:
    with pytest.raises(AttemptError) as caught:
        read_reply(content, "r", 0.0)
    assert caught.value.cause in ("empty", "unreadable")
    assert len(caught.value.said) < 1000


def test_a_server_elsewhere_needs_a_key_unless_it_is_said_that_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"no environment variable OPENAI_API_KEY.*export"):
        HTTPEngine("m", ["http://127.0.0.1:1/v1", "https://api.example.com/v1"])
    HTTPEngine("m", ["https://api.example.com/v1"], api_key_env=None)
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    HTTPEngine("m", ["https://api.example.com/v1"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_urls": []}, "no base_urls"),
        ({"base_urls": ["127.0.0.1:8000/v1"]}, "http://127.0.0.1:8000/v1"),
        ({"base_urls": ["ftp://a/v1"]}, "base url 'ftp"),
        ({"base_urls": ["http://me:hunter2@a/v1"]}, r"http://\.\.\.@a/v1"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_retries": -1}, "max_retries"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": 1001}, "max_concurrency"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        HTTPEngine("m", **{"base_urls": [FREE_PORT], **settings})
    assert "hunter2" not in str(caught.value)
