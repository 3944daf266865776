"""The client in asyncio. Requests run in threads, so that the event loop never waits for them."""

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from .arguments import checked_stop
from .client import Client

_STOP_SECONDS = 0.2
"""Seconds between two checks of the caller's event."""
Row = dict[str, Any]
T = TypeVar("T")


class AsyncClient:
    """The calls `send`, `read`, `readings` and `follow` of a `Client`, for asyncio.

    Each call has the same arguments, results and errors as in `Client`. A cancelled call ends
    immediately; its request continues in a thread, and may succeed. Call methods of an `Outbox`
    with `asyncio.to_thread`.
    """

    def __init__(self, client: Client) -> None:
        """Send requests with `client`, which the caller closes."""
        self._client = client

    async def send(self, readings: Iterable[Mapping[str, Any]], **options: Any) -> int:
        """Store any number of readings. See `Client.send`."""
        return await asyncio.to_thread(partial(self._client.send, **options), readings)

    async def read(self, **options: Any) -> list[Row]:
        """Return readings. See `Client.read`."""
        return await asyncio.to_thread(partial(self._client.read, **options))

    async def readings(self, **options: Any) -> AsyncIterator[Row]:
        """Return an iterator over readings, with one page in memory. See `Client.readings`."""
        async for page in _in_thread(self._client.readings(**options).pages()):
            for row in page:
                yield row

    async def follow(self, **options: Any) -> AsyncIterator[Row]:
        """Return an iterator over new readings. See `Client.follow`.

        To end the iterator, cancel the task that uses it, or set the event given as `stop`.
        """
        stop = options["stop"] = _Stop(checked_stop(options.get("stop")))
        try:
            async for row in _in_thread(self._client.follow(**options)):
                yield row
        finally:
            stop.set()


class _Stop(threading.Event):
    """An event that is also set while `given` is set. `set` does not change `given`."""

    def __init__(self, given: threading.Event) -> None:
        super().__init__()
        self._given = given

    def is_set(self) -> bool:
        return super().is_set() or self._given.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_set() and (left := end - time.monotonic()) > 0:
            super().wait(min(left, _STOP_SECONDS))
        return self.is_set()


async def _in_thread(iterator: Iterator[T]) -> AsyncIterator[T]:
    """Iterate in a thread of its own: waiting followers would use up the threads of asyncio."""
    end = object()
    step = partial(next, iterator, end)
    loop = asyncio.get_running_loop()
    thread = ThreadPoolExecutor(1)
    try:
        while True:
            value = await loop.run_in_executor(thread, copy_context().run, step)
            if value is end:
                return
            yield value
    finally:
        thread.shutdown(wait=False)
