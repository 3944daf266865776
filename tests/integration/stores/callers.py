"""Concurrent callers of one backlog, with a count of their round trips to Redis."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Lock
from typing import Any, Self, TypeVar

from redis import ConnectionPool, Redis

from iot_stores.backlog import Backlog
from iot_stores.backlog_append import AppendResult
from support.keys import KEYS
from support.waiting import wait_until

SHARDS = 4
PATIENCE = 30
"""Timeout of a caller, in seconds."""

T = TypeVar("T")


class CountingPool(ConnectionPool):
    """A pool that counts the round trips of its client: each sends a script once."""

    round_trips = 0

    def make_connection(self) -> Any:
        """Return a connection that counts them."""
        connection: Any = super().make_connection()
        send = connection.send_packed_command

        def counted(command: Any, **options: Any) -> None:
            self.round_trips += any(b"EVALSHA" in part for part in command)
            send(command, **options)

        connection.send_packed_command = counted
        return connection


class Callers:
    """A backlog, a separate client, and threads (greenlets where gevent has patched threads)."""

    def __init__(self, url: str, *, max_bytes: int = 2**30, **options: Any) -> None:
        self.pool = CountingPool.from_url(url, **{"socket_timeout": 5, **options})
        self.client = Redis(connection_pool=self.pool)
        self.redis = Redis.from_url(url)
        self.backlog = Backlog(self.client, KEYS, shards=SHARDS, max_bytes=max_bytes)
        self._started = 0
        self._guard = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.pool.disconnect()
        self.redis.close()

    def append(self, sealed: bytes, **more: Any) -> AppendResult:
        """Append an entry to the shard named by its first bytes."""
        with self._guard:
            self._started += 1
        return self.backlog.append([(shard_of(sealed), sealed)], **more)

    def entries(self) -> list[bytes]:
        """Return the entries of all streams."""
        return [each for shard in range(SHARDS) for _, each in self.stream(shard)]

    def stream(self, shard: int) -> list[tuple[int, bytes]]:
        """Return the entries of a shard, each with the total bytes up to its end."""
        found: Any = self.redis.xrange(KEYS.stream(shard))
        return [(int(fields[b"t"]), fields[b"e"]) for _, fields in found]

    def round_trips(self, calls: Iterable[Callable[[], T]]) -> tuple[int, list[T | Exception]]:
        """Start calls while an append is under way; return their round trips and outcomes.

        The append under way is not counted.
        """
        calls = list(calls)
        with ThreadPoolExecutor(len(calls) + 1) as pool, self.held_up():
            sent, started = self.pool.round_trips, self._started
            first = pool.submit(self.append, b"0 is under way")
            wait_until(lambda: self.pool.round_trips > sent, what="the first round trip")
            others = [pool.submit(call) for call in calls]
            wait_until(
                lambda: self._started == started + 1 + len(calls),
                what="the start of all other calls",
            )
            time.sleep(0.05)  # from the call into the queue
            self.redis.client_unpause()
            wait(others, PATIENCE)
            wait([first], PATIENCE)
            assert first.done()
            return self.pool.round_trips - sent - 1, list(map(outcome, others))

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Pause scripts in Redis until the block ends or the test unpauses Redis."""
        self.redis.client_pause(PATIENCE * 1000, all=False)
        try:
            yield
        finally:
            self.redis.client_unpause()


def outcome(call: "Future[T]") -> T | Exception:
    """Return the result or the exception of a call; fail if the call does not end in time."""
    error = call.exception(0)
    if error is None:
        return call.result(0)
    assert isinstance(error, Exception)
    return error


def shard_of(sealed: bytes) -> int:
    """Return the shard of an entry that begins with a number."""
    return int(sealed.split()[0]) % SHARDS


def together(number: int, call: Callable[[int], T]) -> list[T | Exception]:
    """Run a function in this many threads at once and return the outcomes."""
    with ThreadPoolExecutor(number) as pool:
        calls = [pool.submit(call, each) for each in range(number)]
        wait(calls, PATIENCE)
        return list(map(outcome, calls))
