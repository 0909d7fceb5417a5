"""Where servers are, how they are reached, and which of them the next attempt goes to."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from urllib.request import proxy_bypass

from capo_lit.core.errors import ConfigError
from capo_lit.engines.http.protocol import AttemptError

if TYPE_CHECKING:
    from httpx2 import AsyncHTTPTransport
    from openai import AsyncOpenAI

# Of one server's client; also what max_concurrency is checked against.
MOST_CONNECTIONS, _MOST_IDLE = 1000, 100
# How long a server that failed comes after the others: as it asks by Retry-After, within these bounds.
_REST_S, _LONGEST_REST_S = 10.0, 30.0
# vllm prints http://0.0.0.0:8000 when it starts, and people paste it.
_LOOPBACK = re.compile(r"(.+\.)?localhost|127(\.\d+){1,3}|0\.0\.0\.0|::|::1|::ffff:127(\.\d+){3}")


class Proxy(NamedTuple):
    """What stands between this machine and a server, and the environment variable that says so."""

    url: str
    variable: str

    def __str__(self) -> str:
        return f"the proxy {_shown(self.url)} of {self.variable}"


@dataclass(eq=False, slots=True)
class Server:
    """One base URL.

    Attributes:
        url: without its query.
        client: with its open connections.
        proxy: through which it is reached; None for a direct way.
        outstanding: attempts under way.
        asked: attempts in all.
        rest_until: time.monotonic() until which others are preferred.
    """

    url: str
    client: "AsyncOpenAI"
    proxy: Proxy | None
    outstanding: int = 0
    asked: int = 0
    rest_until: float = 0.0


@contextmanager
def lend(servers: Sequence[Server], home: Server | None = None) -> Iterator[Server]:
    """The server for one attempt: those that just failed last, then `home`, the least outstanding, the least asked."""
    now = time.monotonic()
    # Without the rest, a dead server would draw all attempts: it never has anything to do.
    server = min(servers, key=lambda one: (one.rest_until > now, one is not home, one.outstanding, one.asked))
    server.outstanding += 1
    server.asked += 1
    try:
        yield server
        server.rest_until = 0.0
    except AttemptError as error:
        if not error.final:
            server.rest_until = time.monotonic() + min(_LONGEST_REST_S, max(_REST_S, error.retry_after or 0.0))
        if server.proxy is not None:
            # It may be the proxy that failed, or answered; its own words seldom say so.
            error.said += f", through {server.proxy}"
            error.change += f"; or {server.proxy.variable}, or NO_PROXY={urlsplit(server.url).hostname}"
        raise
    finally:
        server.outstanding -= 1


def connect(url: str, key: str) -> Server:
    """A server that is sent `key`, from what `checked_url` returned; nothing is sent yet.

    Raises:
        ConfigError: see `transport_to`.
    """
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    base, _, query = url.partition("?")
    fields = dict(parse_qsl(query, keep_blank_values=True))
    # Azure's dated API reads the key from a header of its own, which must not follow a redirect to another host.
    azure = "api-version" in fields
    client = AsyncOpenAI(
        api_key=key,
        base_url=base,
        default_query=fields,
        default_headers={"api-key": key} if azure else None,
        timeout=None,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(transport=transport_to(url), follow_redirects=not azure),
    )
    return Server(base, client, proxy_of(url))


def transport_to(url: str) -> "AsyncHTTPTransport":
    """How bytes get to a server; openai's own way would take the proxies of the environment for loopback too.

    Raises:
        ConfigError: if its proxy cannot be used: no URL, or SOCKS without its package.
    """
    from httpx2 import AsyncHTTPTransport, InvalidURL, Limits

    proxy = proxy_of(url)
    limits = Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=_MOST_IDLE)
    if proxy is None:
        return AsyncHTTPTransport(limits=limits)
    try:
        return AsyncHTTPTransport(limits=limits, proxy=proxy.url)
    except (ImportError, ValueError, InvalidURL) as error:
        change = f"pip install socksio for SOCKS, unset {proxy.variable}, or set NO_PROXY={urlsplit(url).hostname}"
        expected = "an http, https, socks5 or socks5h URL, the latter two with the package socksio"
        why = "no package socksio" if isinstance(error, ImportError) else error
        raise ConfigError(f"{proxy} ({why})", expected, "http engine", change) from error


def proxy_of(url: str) -> Proxy | None:
    """The proxy that the environment sets for a server, or None; loopback never has one."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        # Small letters win, also where they take the proxy away.
        variable = name if name in os.environ else name.upper()
        if found := os.environ.get(variable):
            return Proxy(found if "://" in found else f"http://{found}", variable)
    return None


def checked_url(url: str) -> str:
    """A base URL without blanks around it, its last slash, or the path of the endpoint; its query stays.

    Raises:
        ConfigError: if it is no http or https URL with a host, or holds a password.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        # The port raises if it is no number; a line break inside would be dropped silently.
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0 or re.search(r"\s", url):
            raise ValueError("no base URL")
        if "@" in parts.netloc:
            raise ValueError("a password, which belongs into the variable that api_key_env names")
    except ValueError as error:
        expected = "one such as http://127.0.0.1:8000/v1"
        raise ConfigError(f"base url {_shown(url)!r} ({error})", expected, "http engine", "base_urls") from None
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return parts._replace(path=path, fragment="").geturl()


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return _LOOPBACK.fullmatch(str(urlsplit(url).hostname).rstrip(".")) is not None


def _shown(url: str) -> str:
    """A URL without user and password."""
    return re.sub(r"^(\w+://)?.*@", r"\1...@", url)
