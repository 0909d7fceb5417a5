"""What tests of the engine over HTTP share: engines that are closed afterwards, requests, and a bounded wait."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from capo_lit.batch.sampling import Sampling
from capo_lit.engines.base import Request
from capo_lit.engines.http import engine as http_engine
from capo_lit.engines.http.engine import HTTPEngine
from tests.support.misbehaving_server import FAULTS

CAUSES = dict(
    zip(FAULTS, ("status 500", "status 429", "timeout", "connection", "empty", "unreadable", "unreadable"), strict=True)
)
"""What the engine calls each of the server's faults."""
FREE_PORT = "http://127.0.0.1:9/v1"  # the discard service: nothing listens there

Make = Callable[..., HTTPEngine]


@contextmanager
def engines() -> Iterator[Make]:
    """Engines with short pauses, without a key in the environment, closed at the end."""
    made: list[HTTPEngine] = []

    def build(*urls: str, max_retries: int = HTTPEngine.max_retries, **settings: object) -> HTTPEngine:
        made.append(HTTPEngine("m", list(urls), **{"timeout_s": 20.0, **settings}))
        made[-1].max_retries = max_retries
        return made[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_engine, "_FIRST_PAUSE_S", 0.01)
        patch.delenv("OPENAI_API_KEY", raising=False)
        yield build
        for engine in made:
            engine.close()


def ask(index: int = 0, text: str = "hello", **sampling: float) -> Request:
    return Request(f"r{index}", ({"role": "user", "content": f"{text} {index}"},), Sampling(**sampling), seed=index)


def wait_for(condition: Callable[[], bool], seconds: float = 5.0, every: float = 0.005) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(every)
    return condition()
