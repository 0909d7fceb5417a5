"""Token ids in and out: what a server is asked, and what counts as an answer."""

import json
from collections.abc import Mapping
from typing import Any

from capo_lit.batch.facts import FinishReason
from capo_lit.engines.base import Request
from capo_lit.engines.http.protocol import AttemptError
from capo_lit.engines.local import Generated

ROUTE = "/inference/v1/generate"
_QUOTE = 300
_REASONS: Mapping[str, FinishReason] = {"stop": "stop", "length": "length"}


def body_of(request: Request, ids: tuple[int, ...], name: str) -> dict[str, Any]:
    """The body of a request.

    Args:
        request: what to generate.
        ids: of its prompt.
        name: of this attempt, for the server; no other attempt may have it.
    """
    sampling = request.sampling
    params: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "max_tokens": sampling.max_tokens,
        "seed": request.seed,
        "logprobs": 0,
        # A server needs the text only to look for stop strings; ours comes from the ids.
        "detokenize": bool(request.stop),
    }
    if request.stop:
        params["stop"] = list(request.stop)
    return {"request_id": name, "token_ids": list(ids), "sampling_params": params}


def read_answer(answer: Any, request_id: str, stamp: str) -> Generated:
    """What was generated, from the parsed body of an answer.

    Args:
        answer: of a server.
        request_id: of the request.
        stamp: name of the weights that must have generated every token.

    Raises:
        AttemptError: if it is no finished response, or other weights generated any of it.
    """
    try:
        choice = answer["choices"][0]
        ids = tuple(int(index) for index in choice["token_ids"])
        content = (choice["logprobs"] or {}).get("content") or []
        logprobs = tuple(float(token["logprob"]) for token in content)
        reason = str(choice["finish_reason"])
        spans = [(str(one["version"]), int(one["start"]), int(one["end"])) for one in choice["weight_versions"] or ()]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        quoted = json.dumps(answer, default=str)[:_QUOTE]
        raise AttemptError("unreadable", f"an answer that is no response: {quoted}") from error
    if reason not in _REASONS or len(ids) != len(logprobs):
        said = f"finish_reason {reason!r} with {len(ids)} tokens and {len(logprobs)} logprobs"
        raise AttemptError("unreadable", said)
    if spans != [(stamp, 0, len(ids))]:
        raise AttemptError("stale", f"tokens of weights {spans}, and {len(ids)} of {stamp!r} wanted")
    return Generated(request_id, ids, logprobs, _REASONS[reason])


def prompt_counts(answer: Any) -> tuple[int, int]:
    """Tokens of the prompt, and those of them from a cache, as far as an answer says; see read_answer."""
    usage = answer.get("usage") or {}
    details = usage.get("prompt_tokens_details") or {}
    return int(usage.get("prompt_tokens") or 0), int(details.get("cached_tokens") or 0)
