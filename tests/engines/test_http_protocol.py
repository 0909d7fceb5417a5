"""The chat-completions protocol without a server: what counts as an answer, pauses, settings."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capo_lit.batch.facts import Completion
from capo_lit.core.errors import ConfigError
from capo_lit.engines.http.engine import HTTPEngine
from capo_lit.engines.http.protocol import AttemptError, read_reply
from tests.support.http_world import FREE_PORT
from tests.support.misbehaving_server import completion

ENGINE = HTTPEngine("m", [FREE_PORT])


@given(asked=st.none() | st.floats(0, 1e12), attempt=st.integers(1, 10**6))
def test_no_pause_is_shorter_than_asked_or_longer_than_a_minute(asked: float | None, attempt: int) -> None:
    pause = ENGINE._pause(attempt, asked)
    assert min(asked or 0.0, 60.0) <= pause <= max(8.0, min(asked or 0.0, 60.0))
    assert pause > 0


def read(**change: object) -> tuple[Completion, int]:
    return read_reply(json.dumps({**completion("text"), **change}).encode(), "r", 0.0)


def choice(content: object, reason: object = "stop", **fields: object) -> list[dict[str, object]]:
    return [{"message": {"content": content, **fields}, "finish_reason": reason}]


def test_tokens_are_what_the_usage_says_or_unknown() -> None:
    answer, cached = read()
    assert (answer.text, cached) == ("text", 0)
    answer, cached = read(usage={"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}})
    assert (answer.prompt_tokens, answer.completion_tokens, cached) == (9, None, 5)
    for usage in (None, [], {"prompt_tokens": "many"}, {"prompt_tokens": -1}, {"prompt_tokens": True}):
        answer, _ = read(usage=usage)
        assert (answer.prompt_tokens, answer.completion_tokens) == (0, None)


@pytest.mark.parametrize(
    ("words", "end"),
    [
        ("stop STOP Stop eos eos_token end_turn endTurn stop_sequence COMPLETE FINISH_REASON_STOP natural", "stop"),
        ("length LENGTH max_tokens MAX_TOKENS maxTokens max-tokens max_new_tokens FINISH_REASON_MAX_TOKENS", "length"),
    ],
)
def test_every_server_s_word_for_an_end_is_understood(words: str, end: str) -> None:
    for word in words.split():
        answer, _ = read(choices=choice("all of it", word))
        assert (answer.text, answer.finish_reason) == ("all of it", end)


def test_content_without_a_reason_is_whole_and_neither_is_unreadable() -> None:
    for reason in (None, "", 7):
        assert read(choices=choice("all of it", reason))[0].finish_reason == "stop"
    assert read(choices=[{"message": {"content": "all of it"}}])[0].text == "all of it"
    # Nothing at all after an end token is an answer, if a poor one.
    assert read(choices=choice("", "eos_token"))[0].text == read(choices=choice(None))[0].text == ""
    # Cut while the model was still thinking: no content, and that is no fault of the server.
    answer, _ = read(choices=choice(None, "length", reasoning_content="perhaps \\boxed{0}"))
    assert (answer.text, answer.finish_reason) == ("", "length")
    bad = (choice(None, None), choice("x", "abort"), choice("x", "error"), choice(["x"]), choice(3), choice({"a": 1}))
    for choices in (*bad, choice([{"type": "text"}]), [], None, "choices", [None], [{"finish_reason": "stop"}]):
        with pytest.raises(AttemptError) as caught:
            read(choices=choices)
        assert (caught.value.cause, caught.value.final) == ("unreadable", False)


def test_the_text_of_parts_is_joined_without_thoughts_or_pictures() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    parts = [thought, {"type": "text", "text": "one "}, {"type": "image_url"}, {"type": "output_text", "text": "two"}]
    assert read(choices=choice(parts))[0].text == "one two"
    assert read(choices=choice([]))[0].text == ""
    # Half a surrogate pair could not be written to any file.
    assert read(choices=choice("a\ud800b"))[0].text == "a?b"


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_is_read_where_a_finished_reply_has_no_content(name: str) -> None:
    verdict = {name: "so \\boxed{1}"}
    for nothing in (None, "", " \n", []):
        for reason in ("stop", None):
            assert read(choices=choice(nothing, reason, **verdict))[0].text == "so \\boxed{1}"
    assert read(choices=choice("\\boxed{none}", "stop", **verdict))[0].text == "\\boxed{none}"
    with pytest.raises(AttemptError, match="abort"):
        read(choices=choice(None, "abort", **verdict))


def test_a_refusal_is_counted_as_one_and_not_tried_again() -> None:
    for choices in (choice("", "content_filter"), choice("x", "SAFETY"), choice(None, "stop", refusal="I will not.")):
        with pytest.raises(AttemptError, match=r"content_filter|SAFETY|I will not") as caught:
            read(choices=choices)
        assert (caught.value.cause, caught.value.final) == ("refused", True)
    assert read(choices=choice("text", refusal=None))[0].text == "text"


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
        ({"base_urls": ["http://a:port/v1"]}, "base url 'http://a:port"),
        ({"base_urls": ["http://[::1/v1"]}, "base url 'http://"),
        ({"base_urls": ["http://a b/v1"]}, "base url 'http://a b"),
        ({"base_urls": [" "]}, "base url ''"),
        ({"base_urls": ["http://me:hunter2@a/v1"]}, r"http://\.\.\.@a/v1"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"max_concurrency": 1001}, "max_concurrency"),
    ],
)
def test_settings_that_cannot_be_used(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        HTTPEngine("m", **{"base_urls": [FREE_PORT], **settings})
    assert "hunter2" not in str(caught.value)
