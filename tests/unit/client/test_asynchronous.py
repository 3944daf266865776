"""Followers in asyncio: they block no other call, and end one by one."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from iot_sensor_client import AsyncClient, Client
from support.waiting import stretched
from unit.client.test_live import OPEN, event, reading, scripted


async def first(rows: AsyncIterator[dict[str, Any]]) -> int:
    number: int = (await anext(rows))["id"]
    return number


def test_a_quiet_follower_takes_no_thread_from_other_calls() -> None:
    async def follow_and_read(client: AsyncClient) -> list[dict[str, Any]]:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        rows = client.follow()
        assert await first(rows) == 1
        quiet = asyncio.create_task(first(rows))
        await asyncio.sleep(0)  # the task begins
        try:
            async with asyncio.timeout(stretched(10)):
                return await client.read()
        finally:
            quiet.cancel()

    with scripted() as service, Client(service.url, "p") as client:
        service.holds = True
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(1)]}, "p1")),
            (200, json.dumps({"data": [reading(2)]}).encode()),
        ]
        assert asyncio.run(follow_and_read(AsyncClient(client))) == [reading(2)]


def test_a_cancelled_follower_does_not_end_others_with_the_same_event() -> None:
    stop = threading.Event()

    async def cancel_one(client: AsyncClient) -> None:
        cancelled, other = client.follow(stop=stop), client.follow(stop=stop)
        assert [await first(cancelled), await first(other)] == [1, 1]
        task = asyncio.create_task(first(cancelled))
        await asyncio.sleep(0)  # the task begins
        task.cancel()
        await asyncio.wait([task])
        assert not stop.is_set()
        quiet = asyncio.create_task(first(other))
        await asyncio.sleep(0)
        stop.set()
        async with asyncio.timeout(stretched(10)):
            (ended,) = await asyncio.gather(quiet, return_exceptions=True)
        assert isinstance(ended, StopAsyncIteration)

    with scripted() as service, Client(service.url, "p") as client:
        service.holds = True
        service.answers = [(200, OPEN + event("readings", {"data": [reading(1)]}, "p1"))] * 2
        asyncio.run(cancel_one(AsyncClient(client)))
