"""Where servers are, how they are reached, and which of them the next attempt goes to."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies, proxy_bypass

from capo_lit.engines.http.protocol import AttemptError
from capo_lit.errors import ConfigError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# Of one server's client; also what max_concurrency is checked against.
MOST_CONNECTIONS, _MOST_IDLE = 1000, 100
# How long a server that failed comes after the others: as it asks by Retry-After, within these bounds.
_REST_S, _LONGEST_REST_S = 10.0, 30.0
# vllm prints http://0.0.0.0:8000 when it starts, and people paste it.
_LOOPBACK = re.compile(r"(.+\.)?localhost|127(\.\d+){1,3}|0\.0\.0\.0|::|::1|::ffff:127(\.\d+){3}")
_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


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
def lend(servers: Sequence[Server]) -> Iterator[Server]:
    """The server for one attempt: those that just failed last, then the least outstanding, then the least asked."""
    now = time.monotonic()
    # Without the rest, a dead server would draw all attempts: it never has anything to do.
    server = min(servers, key=lambda one: (one.rest_until > now, one.outstanding, one.asked))
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
        ConfigError: see `proxy_of`.
    """
    from httpx2 import AsyncHTTPTransport, Limits
    from openai import AsyncOpenAI, DefaultAsyncHttpxClient

    base, _, query = url.partition("?")
    fields, proxy = dict(parse_qsl(query, keep_blank_values=True)), proxy_of(url)
    # A transport of our own, since the client's would take the proxies of the environment for loopback too.
    limits = Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=_MOST_IDLE)
    transport = AsyncHTTPTransport(limits=limits, proxy=None if proxy is None else proxy.url)
    # Azure's dated API reads the key from a header of its own, which must not follow a redirect to another host.
    azure = "api-version" in fields
    client = AsyncOpenAI(
        api_key=key,
        base_url=base,
        default_query=fields,
        default_headers={"api-key": key} if azure else None,
        timeout=None,
        max_retries=0,
        http_client=DefaultAsyncHttpxClient(transport=transport, follow_redirects=not azure),
    )
    return Server(base, client, proxy)


def checked_url(url: str) -> str:
    """A base URL without blanks around it, its last slash, or the path of the endpoint; its query stays.

    Raises:
        ConfigError: if it is no http or https URL with a host, or holds a password.
    """
    url = url.strip()
    if not _is_url(url, ("http", "https")) or "@" in urlsplit(url).netloc:
        expected = "one such as http://127.0.0.1:8000/v1"
        raise ConfigError(f"base url {_shown(url)!r}", expected, "http engine", "base_urls")
    parts = urlsplit(url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return parts._replace(path=path, fragment="").geturl()


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return _LOOPBACK.fullmatch(str(urlsplit(url).hostname).rstrip(".")) is not None


def proxy_of(url: str) -> Proxy | None:
    """The proxy that the environment (or the system) sets for a server, or None; loopback never has one.

    Raises:
        ConfigError: if that proxy cannot be used.
    """
    parts, proxies = urlsplit(url), getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    names = (f"{parts.scheme}_proxy", "all_proxy")
    variable = next((n for n in os.environ if n.lower() in names and os.environ[n] == found), "the system's settings")
    proxy = Proxy(found if "://" in found else f"http://{found}", variable)
    where, around = f"http engine, {parts.hostname}", f"unset {variable}, or set NO_PROXY={parts.hostname}"
    if not _is_url(proxy.url, _PROXY_SCHEMES):
        raise ConfigError(str(proxy), f"a URL that begins with one of {', '.join(_PROXY_SCHEMES)}", where, around)
    if proxy.url.startswith("socks") and find_spec("socksio") is None:
        change = f"pip install socksio, or {around}"
        raise ConfigError(f"{proxy}, and no package socksio", "that package, for SOCKS", where, change)
    return proxy


def _is_url(url: str, schemes: Sequence[str]) -> bool:
    try:
        parts = urlsplit(url)
        # The port raises if it is no number; a blank or line break inside would be dropped silently.
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0 and not re.search(r"\s", url)
    except ValueError:
        return False


def _shown(url: str) -> str:
    """A URL without user and password."""
    return re.sub(r"^(\w+://)?.*@", r"\1...@", url)
