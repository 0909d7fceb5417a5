"""Several servers of one model: each attempt goes to the one with the least to do."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from capo_lit.engines.chat_api import AttemptError
from capo_lit.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# A server that fails is passed over for 1 s, 2 s, 4 s ... of this at most, if there is another.
_LONGEST_REST_S = 30.0


@dataclass(eq=False, slots=True)
class Server:
    """One base URL.

    Attributes:
        url: its base URL.
        client: with its open connections.
        outstanding: attempts under way.
        asked: attempts in all.
        faults: attempts in a row that failed through no fault of the request.
        rest_until: time.monotonic() until which others are preferred.
    """

    url: str
    client: "AsyncOpenAI"
    outstanding: int = 0
    asked: int = 0
    faults: int = 0
    rest_until: float = 0.0


class Balancer:
    """Lends servers to attempts; used from one thread.

    Args:
        servers: at least one.
    """

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = tuple(servers)

    async def close(self) -> None:
        """Close all connections; a client that is collected later would try to in whatever loop runs then."""
        for server in self.servers:
            await server.client.close()

    @contextmanager
    def lend(self) -> Iterator[Server]:
        """The server for one attempt: rested ones first, then the least outstanding, then the least asked."""
        now = time.monotonic()
        # Without the rest, a dead server would draw all attempts: it never has anything to do.
        server = min(self.servers, key=lambda one: (one.rest_until > now, one.outstanding, one.asked))
        server.outstanding += 1
        server.asked += 1
        try:
            yield server
        except AttemptError as error:
            if not error.final:
                server.faults += 1
                pause = max(2.0 ** min(server.faults - 1, 16), error.retry_after or 0.0)
                server.rest_until = time.monotonic() + min(_LONGEST_REST_S, pause)
            raise
        else:
            server.faults, server.rest_until = 0, 0.0
        finally:
            server.outstanding -= 1


def checked_url(url: str) -> str:
    """A base URL without its last slash.

    Raises:
        ConfigError: if it is no http or https URL with a host, or holds a password or a query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        shown = url if "@" not in parts.netloc else url.replace(parts.netloc, f"...@{parts.hostname}")
        raise ConfigError(f"base url {shown!r}", "one such as http://127.0.0.1:8000/v1", "http engine", "base_urls")
    return url.rstrip("/")


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
