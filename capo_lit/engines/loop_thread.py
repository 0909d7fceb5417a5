"""An asyncio event loop in a thread of its own, for synchronous code that waits on many sockets."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger(__name__)


class LoopThread:
    """Runs coroutines for other threads, from its construction until `close`.

    Args:
        name: of the thread.
        cleanup: awaited in the loop at the end, when nothing else runs there any more.
    """

    def __init__(self, name: str, cleanup: Callable[[], Awaitable[None]]) -> None:
        self._cleanup = cleanup
        self._loop, self._stop = asyncio.new_event_loop(), asyncio.Event()
        # A daemon: a process whose owner forgot to close it can still end.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def spawn(self, coroutine: "Coroutine[object, object, T]") -> "Future[T]":
        """Start a coroutine.

        Returns:
            The future of its result; cancelling it before it is done cancels the coroutine where it waits.
        """
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Cancel what still runs, and end the thread.

        Args:
            timeout_s: longest wait for the thread, seconds.

        Returns:
            Whether it ended in time; if not, it is left behind with a warning.
        """
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("thread %s did not end within %g s", self._thread.name, timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._until_stopped())
        finally:
            self._loop.close()

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        # Whoever waits for one of them gets what it says to that.
        if tasks:
            await asyncio.wait(tasks)
        await self._cleanup()
