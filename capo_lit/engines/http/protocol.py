"""The chat-completions protocol: what is sent, what counts as an answer, and which failures are worth another try."""

import json
import logging
import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from functools import cache
from time import perf_counter
from typing import Any

from capo_lit.batch.facts import Completion, FinishReason
from capo_lit.engines.base import Request

log = logging.getLogger(__name__)

# How servers say why a reply ended, in small letters alone. Any other word, or none, is a stop if there is content:
# every server has words of its own, and a reply without a verdict is found out later.
_STOPPED = ("stop", "eos", "eostoken", "endturn", "stopsequence", "complete", "completed")
_CUT = ("length", "maxtokens", "maxnewtokens", "maxoutputtokens", "maxlength", "modellength")
# The server has decided; the same request would end the same way.
_REFUSED = ("contentfilter", "safety", "refusal", "recitation", "toolcalls", "tooluse", "functioncall")
_BROKEN = ("abort", "aborted", "cancelled", "canceled", "error", "timeout")
_TOO_SLOW, _TOO_MANY, _SERVER_FAULT = 408, 429, 500
# As much of a server's words as an error message quotes, characters.
_QUOTE = 300
_ADVICE = {
    "status 400": "sampling.max_tokens, extra, or the length of the prompts",
    "status 401": "the key in the variable that api_key_env names",
    "status 403": "the key in the variable that api_key_env names",
    "status 404": "model, or base_urls (most end in /v1)",
    "connection": "base_urls, or start the server",
}


class AttemptError(Exception):
    """One attempt at a request that brought no completion.

    Args:
        cause: of a small set, for counting: "timeout", "connection", "empty", "unreadable", "refused", "status 500".
        said: what happened, for people.
        final: another attempt would fail in the same way.
        retry_after: seconds that the server asks to wait, if it does.

    Attributes:
        change: which setting to look at if it was the last attempt.
    """

    def __init__(self, cause: str, said: str, final: bool = False, retry_after: float | None = None) -> None:
        super().__init__(said)
        self.cause, self.said, self.final, self.retry_after = cause, said, final, retry_after
        self.change = _ADVICE.get(cause, "timeout_s, or look at the server")


def body_of(request: Request, extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a request's body beside model and messages.

    Args:
        request: what to generate.
        extra: further fields, which win over those of the request; None takes a field out.
    """
    sampling = request.sampling
    fields: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
    }
    # Not of the original protocol: strict servers refuse it, so it is sent only where it says something.
    if sampling.top_k > 0:
        fields["top_k"] = sampling.top_k
    if request.stop:
        fields["stop"] = list(request.stop)
    if request.schema is not None:
        named = {"name": "reply", "schema": dict(request.schema), "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": named}
    return {name: value for name, value in (fields | dict(extra)).items() if value is not None}


def read_reply(content: bytes, request_id: str, since: float) -> tuple[Completion, int]:
    """A completion from the body of a successful response.

    Args:
        content: the body.
        request_id: of the request.
        since: perf_counter() at its submission.

    Returns:
        The completion, and how many tokens of its prompt the server took from a cache.

    Raises:
        AttemptError: if the body is empty or is no finished chat completion.
    """
    if not content.strip():
        raise AttemptError("empty", "an empty body")
    try:
        reply = json.loads(content)
        text, finish_reason = _read_choice(reply["choices"][0])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise AttemptError("unreadable", f"a body that is no chat completion: {_quote(content)}") from error
    usage = reply.get("usage")
    completion = Completion(
        request_id=request_id,
        ids=(),
        pieces=(),
        special=(),
        # JSON can spell half a surrogate pair, which no file could be written with later.
        text=text.encode("utf-8", "replace").decode(),
        logprobs=None,
        finish_reason=finish_reason,
        prompt_tokens=_count(usage, "prompt_tokens") or 0,
        version=None,
        seconds=perf_counter() - since,
        completion_tokens=_count(usage, "completion_tokens"),
    )
    details = usage.get("prompt_tokens_details") if isinstance(usage, dict) else None
    return completion, _count(details, "cached_tokens") or 0


def _read_choice(choice: dict[str, Any]) -> tuple[str, FinishReason]:
    """The text of a reply, and how it ended.

    Raises:
        AttemptError: if it was refused or broken off.
        LookupError, TypeError, AttributeError: if it is no choice.
    """
    message, reason = choice["message"], choice.get("finish_reason")
    text, refusal = _joined(message.get("content")), message.get("refusal")
    # The letters alone: STOP, end_turn, endTurn, max-tokens and FINISH_REASON_STOP are all in use.
    word = re.sub("[^a-z]", "", str(reason).lower()).removeprefix("finishreason")
    said = f"finish_reason {reason!r} with content {_quote(repr(text).encode())}"
    if word in _REFUSED or (refusal and not text):
        raise AttemptError("refused", said + (f" and refusal {refusal!r}" if refusal else ""), final=True)
    if word in _CUT:
        return text, "length"
    if not text.strip():
        # A parser of thoughts that finds no end of them takes the whole reply for one; it is all the model said. Not
        # so where it was cut: then it is a thought indeed, whose boxes are no verdicts.
        text = _joined(message.get("reasoning_content") or message.get("reasoning"))
        if text:
            _warn_once("a reply has no content, so its reasoning is read: see the server's reasoning parser")
    if word in _BROKEN or not (text.strip() or word in _STOPPED):
        raise AttemptError("unreadable", said)
    return text, "stop"


def _joined(content: object) -> str:
    """The text of a message: a string, nothing, or parts, of which thoughts and the like are left out.

    Raises:
        LookupError, TypeError: if it is none of them.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise TypeError(type(content).__name__)
    return "".join(part["text"] for part in content if part.get("type", "text") in ("text", "output_text"))


@cache
def _warn_once(said: str) -> None:
    log.warning("%s (said only once)", said)


def status_error(status: int, headers: Mapping[str, str], content: bytes) -> AttemptError:
    """What a response with an error status means.

    Args:
        status: of HTTP, 300 and above.
        headers: of the response, looked up in lower case.
        content: its body.
    """
    final = status < _SERVER_FAULT and status not in (_TOO_SLOW, _TOO_MANY)
    said = f"HTTP {status}" + (f" ({_quote(content)})" if content.strip() else "")
    return AttemptError(f"status {status}", said, final, _retry_after(headers.get("retry-after")))


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds a number of them or a date; None if it holds neither."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _count(usage: object, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and value >= 0 else None


def _quote(content: bytes) -> str:
    return content[:_QUOTE].decode("utf-8", "replace")
