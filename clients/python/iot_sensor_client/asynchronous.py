"""The client in asyncio. Requests run in threads, so that the event loop never waits for them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from .arguments import checked_stop
from .client import Client

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
        async for page in _in_threads(self._client.readings(**options).pages()):
            for row in page:
                yield row

    async def follow(self, **options: Any) -> AsyncIterator[Row]:
        """Return an iterator over new readings. See `Client.follow`.

        To end the iterator, cancel the task that uses it, or set the event given as `stop`.
        """
        stop = options["stop"] = checked_stop(options.get("stop"))
        try:
            async for row in _in_threads(self._client.follow(**options)):
                yield row
        finally:
            stop.set()


async def _in_threads(iterator: Iterator[T]) -> AsyncIterator[T]:
    end = object()
    while True:
        value = await asyncio.to_thread(next, iterator, end)
        if value is end:
            return
        yield value  # type: ignore[misc]  # not the end
