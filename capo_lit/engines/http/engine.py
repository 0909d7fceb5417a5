"""The engine over HTTP: requests go out, wait for a slot, are tried again, and come back as completions."""

import asyncio
import os
import random
from typing import Any

from capo_lit.batch.facts import Completion
from capo_lit.core.errors import ConfigError, EngineError, check_settings
from capo_lit.engines.base import Request
from capo_lit.engines.http.protocol import AttemptError, body_of, read_reply
from capo_lit.engines.http.remote import RemoteEngine, attempt_error
from capo_lit.engines.http.servers import (
    MOST_CONNECTIONS,
    Server,
    checked_url,
    connect,
    is_loopback,
    lend,
    proxy_of,
    transport_to,
)
from capo_lit.engines.http.session import Session

_FIRST_PAUSE_S, _LONGEST_BACKOFF_S = 0.5, 8.0
# A server may ask for a longer pause by Retry-After, but not for more than this.
_LONGEST_PAUSE_S = 60.0
# Sent where there is no key, since the client insists on one.
_NO_KEY = "no-key-needed"


class HTTPEngine(RemoteEngine):
    """Chat completions from one or several servers of the same model.

    One request is one plain POST, not a stream: the closed connection of a cancelled request frees its slot in the
    server all the same, and no time goes into parsing an event for every token. Prompts are chat messages, which the
    server renders; token ids of the completion are not known, so it has `completion_tokens` instead.

    Args:
        model: its name on the servers.
        base_urls: of the servers, most often ending in /v1, with a query where they want one (?api-version=...); each
            attempt goes to the one with the fewest outstanding, and those that just failed come last. Proxies of the
            environment are used, but never for loopback.
        api_key_env: environment variable that holds the key; null for servers that ask for none. Loopback servers
            need no key.
        timeout_s: of one attempt, seconds, from the connection to the last byte.
        max_concurrency: requests in the servers at once, all together; the rest wait here.
        extra: further fields of every request's body (chat_template_kwargs, stop); null takes one of the usual fields
            out, such as response_format for a server that knows no JSON schemas.

    Attributes:
        max_retries: attempts after the first, for HTTP 408, 429 and 5xx, lost connections, timeouts and bodies that
            are no completion; after pauses of 0.5 s, 1 s, 2 s and 4 s with jitter, or the server's Retry-After up to
            60 s. So a request ends at most 5 * timeout_s + 240 s after its first attempt; a judge gives up at its
            own deadline.

    Raises:
        ConfigError: if a setting or a proxy cannot be used, or a server elsewhere has no key.
    """

    takes_schema = True
    max_retries = 4

    def __init__(
        self,
        model: str,
        base_urls: list[str],
        api_key_env: str | None = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        max_concurrency: int = 64,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"http engine {model}", max_concurrency, timeout_s)
        most = MOST_CONNECTIONS
        checks = (
            (bool(base_urls), "no base_urls", "at least one", "base_urls"),
            (1 <= max_concurrency <= most, f"max_concurrency {max_concurrency}", f"1 to {most}", "max_concurrency"),
        )
        check_settings(checks, self._name)
        self.model, self.base_urls, self.api_key_env = model, [checked_url(url) for url in base_urls], api_key_env
        self.max_concurrency, self.extra = max_concurrency, dict(extra or {})
        self._key()
        for url in self.base_urls:
            if proxy_of(url) is not None:
                transport_to(url)  # a proxy that cannot be used is refused here and not at the first request
        # Never the global random state, which belongs to the trainer.
        self._jitter = random.Random()

    def _connect(self) -> list[Server]:
        key = self._key()
        return [connect(url, key) for url in self.base_urls]

    def _refusal(self, request: Request) -> EngineError | None:
        if not request.prompt:
            return self._error(request, "an empty prompt", "at least one message")
        if any(isinstance(item, int) for item in request.prompt):
            change = "take VLLMEngine or HFEngine where prompts are ids"
            return self._error(request, "a prompt of token ids", "chat messages, which the server renders", change)
        return None

    def _key(self) -> str:
        """The key, read from the environment whenever it is needed and never kept in a setting."""
        key = os.environ.get(self.api_key_env, "").strip() if self.api_key_env is not None else _NO_KEY
        remote = [url for url in self.base_urls if not is_loopback(url)]
        if not key and remote:
            raise ConfigError(
                f"no environment variable {self.api_key_env}",
                f"the key of {remote[0]} in it",
                self._name,
                f"export {self.api_key_env}=..., or set api_key_env to its name, or to null where no key is asked for",
            )
        return key or _NO_KEY

    async def _serve(self, request: Request, session: Session, since: float) -> Completion:
        """One request from its slot to its end.

        openai's client could try again by itself, but it stays with one server, counts nothing, takes any body for a
        completion, and draws its pauses from the random state that belongs to the trainer.
        """
        try:
            async with session.slots:
                number = 0
                while True:
                    number += 1
                    try:
                        return await self._attempt(request, session, since)
                    except AttemptError as error:
                        if error.final or number > self.max_retries:
                            got = f"{error.said} at attempt {number}"
                            raise self._error(request, got, "a chat completion", error.change) from error
                        await asyncio.sleep(self._pause(number, error.retry_after))
        except asyncio.CancelledError:
            if self._session is session:
                raise
            raise self._error(request, "an engine that was closed", "an open one until the request is done") from None

    def _pause(self, failed: int, asked: float | None) -> float:
        """Seconds before the next attempt: doubled each time, less up to half by chance, or what the server asks."""
        backoff = min(_LONGEST_BACKOFF_S, _FIRST_PAUSE_S * 2.0 ** min(failed - 1, 16))
        return min(_LONGEST_PAUSE_S, max(asked or 0.0, backoff * self._jitter.uniform(0.5, 1.0)))

    async def _attempt(self, request: Request, session: Session, since: float) -> Completion:
        try:
            with lend(session.servers) as server:
                content = await self._post(request, server)
                completion, cached = read_reply(content, request.request_id, since)
        except AttemptError as error:
            self._count(error)
            raise
        self.prompt_tokens += completion.prompt_tokens
        self.cached_tokens += cached
        return completion

    async def _post(self, request: Request, server: Server) -> bytes:
        """The body of a successful response."""
        from openai import OpenAIError

        messages: Any = [dict(message) for message in request.prompt if not isinstance(message, int)]
        create = server.client.chat.completions.with_raw_response.create
        try:
            async with asyncio.timeout(self.timeout_s):
                # Read as bytes: the client takes nearly anything for a completion.
                raw = await create(model=self.model, messages=messages, extra_body=body_of(request, self.extra))
                return raw.http_response.content
        except TimeoutError as error:
            raise AttemptError("timeout", f"no reply of {server.url} within {self.timeout_s:g} s") from error
        except OpenAIError as error:
            raise attempt_error(error, server) from None
