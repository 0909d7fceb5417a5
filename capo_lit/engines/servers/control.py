"""Calls to a vLLM server's own routes: is it well, which weights has it, stop, take these."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from capo_lit.core.errors import EngineError
from capo_lit.engines.http.protocol import AttemptError
from capo_lit.engines.http.remote import attempt_error
from capo_lit.engines.http.servers import Server

# Longest wait for what takes a server no time, seconds; it may be busy.
ANSWER_S = 60.0
_OPEN_UPDATE = "already active"


async def call(server: Server, path: str, body: Mapping[str, Any] | None = None, limit_s: float = ANSWER_S) -> Any:
    """POST to a route, or GET where there is no body, and what it answers as parsed JSON; None if that is nothing.

    Raises:
        AttemptError: if no good answer comes within `limit_s` seconds.
    """
    from httpx2 import Response
    from openai import OpenAIError

    try:
        async with asyncio.timeout(limit_s):
            if body is None:
                answer = await server.client.get(path, cast_to=Response)
            else:
                answer = await server.client.post(path, cast_to=Response, body=body)
            return answer.json() if answer.content.strip() else None
    except TimeoutError:
        raise AttemptError("timeout", f"no answer of {server.url}{path} within {limit_s:g} s") from None
    except OpenAIError as error:
        failed = attempt_error(error, server)
        failed.said = f"{path}: {failed.said}"
        raise failed from None
    except ValueError as error:
        raise AttemptError("unreadable", f"an answer of {server.url}{path} that is no JSON ({error})") from None


async def healthy(server: Server) -> bool:
    """Whether it answers, and its engine is alive."""
    try:
        await call(server, "/health")
    except AttemptError:
        return False
    return True


async def stamp_of(server: Server) -> str:
    """The name of the weights that it computes with.

    Raises:
        AttemptError: if it does not say.
    """
    answer = await call(server, "/weight_info")
    return str(answer.get("weight_version")) if isinstance(answer, dict) else ""


async def computes_with(server: Server, stamp: str) -> bool:
    """Whether it is alive, has these weights, and is not paused."""
    try:
        paused = await call(server, "/is_paused")
        return await healthy(server) and not paused["is_paused"] and await stamp_of(server) == stamp
    except (AttemptError, LookupError, TypeError):
        return False


async def load_files(server: Server, paths: Sequence[str], stamp: str, limit_s: float) -> None:
    """Have a server replace its weights by those in files, and see that it has.

    It is paused first, since a request that runs meanwhile kills it; what still runs is nobody's, and is aborted.

    Args:
        server: that answers.
        paths: of safetensors files that it sees.
        stamp: what it is to call the weights.
        limit_s: for every call, seconds.

    Raises:
        AttemptError: if a call fails; its weights may then be half of these, and it has to be started anew.
    """
    await call(server, "/pause?mode=abort", {}, limit_s)
    await call(server, "/init_weight_transfer_engine", {"init_info": {}}, limit_s)
    await start_update(server, limit_s)
    for path in paths:
        await call(server, "/update_weights", {"update_info": {"path": path}}, limit_s)
    await finish_update(server, stamp, limit_s)


async def start_update(server: Server, limit_s: float) -> None:
    """Open an update; one that a trainer which is no more has left open is ended first.

    Raises:
        AttemptError: if it cannot be opened.
    """
    try:
        await call(server, "/start_weight_update", {}, limit_s)
    except AttemptError as error:
        if _OPEN_UPDATE not in error.said:
            raise
        await call(server, "/finish_weight_update", {}, limit_s)
        await call(server, "/start_weight_update", {}, limit_s)


async def finish_update(server: Server, stamp: str, limit_s: float) -> None:
    """Close an update, forget what was computed with the old weights, go on, and see which weights it names.

    Raises:
        AttemptError: if one of it fails.
    """
    await call(server, "/finish_weight_update", {"weight_version": stamp}, limit_s)
    reset = await call(server, "/reset_prefix_cache", {}, limit_s)
    if not (isinstance(reset, dict) and reset.get("success")):
        raise AttemptError("refused", f"a prefix cache of {server.url} that cannot be reset ({reset})")
    await call(server, "/resume", {}, limit_s)
    if (found := await stamp_of(server)) != stamp:
        raise AttemptError("stale", f"weights {found!r} in {server.url} after a push of {stamp!r}")


async def check_given(server: Server, dtype: str, max_model_len: int) -> None:
    """Refuse a server that others started in a way that trains on wrong numbers, or not at all.

    Args:
        server: that answers.
        dtype: that it is said to compute in.
        max_model_len: that it is said to take.

    Raises:
        EngineError: if it has no routes for weights, or other settings.
    """
    change = "start it as docs/howto/rollout-servers.md says, or the engine's settings"
    try:
        await stamp_of(server)
        info = (await call(server, "/server_info?config_format=json"))["vllm_config"]
        model = info["model_config"]
        transfer = info["weight_transfer_config"]
    except (AttemptError, LookupError, TypeError) as error:
        said = error.said if isinstance(error, AttemptError) else repr(error)
        got = f"a server that does not show its settings: {said}"
        raise EngineError(got, "VLLM_SERVER_DEV_MODE=1 in its environment", server.url, change) from error
    found = (
        ("logprobs_mode", "processed_logprobs", model.get("logprobs_mode")),
        ("dtype", dtype, str(model.get("dtype")).removeprefix("torch.")),
        ("max_model_len", max_model_len, model.get("max_model_len")),
        ("weight_transfer_config", "one", "one" if transfer else "none"),
    )
    for name, expected, got in found:
        if got != expected:
            raise EngineError(f"{name} {got}", f"{expected}", server.url, change)
