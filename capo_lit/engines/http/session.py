"""What lives from an engine's first request to its `close`: servers, slots, and a thread that waits on the sockets."""

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from capo_lit.engines.http.servers import Server

T = TypeVar("T")


class Session:
    """An event loop in a thread of its own, for synchronous callers, and what its coroutines share.

    Args:
        name: of the thread.
        servers: whose connections are closed at the end.
        slots: of requests that may be in the servers at once.
    """

    def __init__(self, name: str, servers: Sequence[Server], slots: int) -> None:
        self.servers, self.slots = servers, asyncio.Semaphore(slots)
        self._loop = asyncio.new_event_loop()
        # A daemon: a process whose owner forgot to close it can still end.
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def spawn(self, coroutine: "Coroutine[object, object, T]") -> "Future[T]":
        """Start a coroutine; cancelling the future before it is done cancels the coroutine where it waits."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def close(self, timeout_s: float = 5.0) -> None:
        """Cancel what still runs, close the connections, and end the thread.

        Raises:
            TimeoutError: if that takes longer than `timeout_s` seconds; the thread is left to end when it can.
        """
        try:
            self.spawn(self._end()).result(timeout_s)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout_s)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A client that is collected later would try to in whatever loop runs then.
        for server in self.servers:
            await server.client.close()

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.close()
