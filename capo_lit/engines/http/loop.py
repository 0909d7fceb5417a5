"""An asyncio event loop in a thread of its own, for synchronous code that waits on many sockets."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for other threads, from its construction until `close`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # A daemon: a process whose owner forgot to close it can still end.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def spawn(self, coroutine: "Coroutine[object, object, T]") -> "Future[T]":
        """Start a coroutine; cancelling the future before it is done cancels the coroutine where it waits."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, cleanup: Callable[[], Awaitable[None]], timeout_s: float = 5.0) -> None:
        """Cancel what still runs, await `cleanup` when it has ended, and end the thread.

        Raises:
            TimeoutError: if that takes longer than `timeout_s` seconds; the thread is left to end when it can.
        """
        try:
            self.spawn(self._end(cleanup)).result(timeout_s)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)

    async def _end(self, cleanup: Callable[[], Awaitable[None]]) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await cleanup()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()
