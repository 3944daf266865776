"""Writers killed during drains lose no reading and store none twice."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from redis import Redis

from integration.writer.sending import Sender, sending
from iot_models.settings import load
from iot_stores.postgres import Connection
from iot_tools.local.child import Child
from iot_writer.maintenance.partitions import ensure_months_ahead
from support.clock import now
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

PASSWORDS = [b"password-%d" % number for number in range(24)]

_WAITING_FOR_LOCK = """
    SELECT count(*) FROM pg_locks
    WHERE relation IN ('segments'::regclass, 'ingest_sessions'::regclass) AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STORED = "SELECT coalesce(sum(count), 0)::int8 FROM segments"
_POSITIONS = "SELECT shard, position FROM ingest_offsets"


class Scene:
    """Writers as processes, readings that arrive meanwhile, and ways to stop a writer in a drain.

    A kill `before_commit` stops a writer in its transaction, which waits for a lock on the table of
    segments. A kill `after_commit` stops a writer after its commit and before its next write to
    Redis. A kill at `some_time` follows after some more readings are stored.
    """

    def __init__(self, stack: Stack, sender: Sender, connection: Connection) -> None:
        self.stack = stack
        self.sender = sender
        self.connection = connection
        self.random = random.Random(20140318)
        self.seen = {"committed, not trimmed": 0, "not committed": 0}

    def arrive(self) -> None:
        """Send one more request."""
        self.sender.send(self.random.choice(PASSWORDS), self.random.randint(1, 40))

    def arrive_until(self, condition: Callable[[], bool], what: str) -> None:
        """Send up to 50 requests a second until a condition is true."""

        def once() -> bool:
            self.arrive()
            return condition()

        wait_until(once, what=what, max_pause=0.02)

    def shard(self, password: bytes) -> int:
        """Return the shard of a password."""
        return self.sender.shard(password)

    def wait_for_drains_held_up(self, number: int) -> None:
        """Wait until `number` drains wait for the lock on the table of segments."""
        wait_until(lambda: self.number(_WAITING_FOR_LOCK) == number, what="drains held up")

    def number(self, statement: str) -> int:
        """Return the number that a statement selects."""
        row = self.connection.execute(cast("Any", statement)).fetchone()
        return cast("tuple[int]", row)[0]

    def kill_before_commit(self, writer: Child) -> None:
        with self.connection.transaction():
            self.connection.execute("LOCK TABLE segments IN SHARE MODE")
            self.arrive_until(lambda: self.number(_WAITING_FOR_LOCK) > 0, "a drain held up")
            _kill(writer)
            self.seen["not committed"] += 1

    def kill_after_commit(self, writer: Child) -> None:
        redis = self.sender.redis
        with self.connection.transaction():
            self.connection.execute("LOCK TABLE segments IN SHARE MODE")
            self.arrive_until(lambda: self.number(_WAITING_FOR_LOCK) > 0, "a drain held up")
            _pause_writes(redis)
        try:
            wait_until(self._committed_not_trimmed, what="a drain that has committed")
            _kill(writer)
            assert self._committed_not_trimmed()
            self.seen["committed, not trimmed"] += 1
        finally:
            redis.execute_command("CLIENT", "UNPAUSE")  # type: ignore[no-untyped-call]

    def kill_at_some_time(self, writer: Child) -> None:
        enough = self.number(_STORED) + self.random.randint(1, 4000)
        self.arrive_until(lambda: self.number(_STORED) >= enough, "more readings stored")
        _kill(writer)

    def kill(self, writer: Child, number: int) -> None:
        """Kill the writer for the `number`-th time, at a moment that depends on `number`."""
        ways = (self.kill_before_commit, self.kill_after_commit, self.kill_at_some_time)
        ways[number % len(ways)](writer)

    def taken_up(self) -> None:
        """Wait until all entries are stored without another request."""
        wait_until(lambda: self.sender.waiting() == 0, what="an empty backlog")

    def _committed_not_trimmed(self) -> bool:
        rows = self.connection.execute(_POSITIONS).fetchall()
        for shard, position in cast("list[tuple[int, str]]", rows):
            if self.sender.redis.xrange(KEYS.stream(shard), position, position):
                return True
        return False


def _pause_writes(redis: "Redis") -> None:
    redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # type: ignore[no-untyped-call]


def _kill(process: Child) -> None:
    assert process.poll() is None, "the writer exited without a kill"
    process.kill()
    process.wait()


@pytest.fixture
def scene(environment: dict[str, str], postgres_url: str, tmp_path: Path) -> Any:
    """Writers as processes on empty stores."""
    stack = Stack(environment, tmp_path)
    with (
        sending(load(environment)) as sender,
        psycopg.connect(postgres_url, autocommit=True) as connection,
    ):
        for password in PASSWORDS:
            sender.vault(password)
        ensure_months_ahead(connection, now())
        yield Scene(stack, sender, connection)
        stack.stop()


def test_a_writer_killed_twenty_times_loses_nothing(scene: Scene) -> None:
    for number in range(20):
        scene.kill(scene.stack.start_writer(), number)
    assert scene.seen == {"not committed": 7, "committed, not trimmed": 7}
    assert scene.sender.waiting() > 0
    scene.stack.start_writer()
    scene.taken_up()
    scene.sender.check_all()


def test_another_writer_continues_after_a_kill(scene: Scene) -> None:
    first, *others = PASSWORDS
    elsewhere = next(each for each in others if scene.shard(each) != scene.shard(first))
    scene.stack.start_writer()
    for _ in range(4):
        killed = scene.stack.start_writer()
        wait_until(lambda: _writers(scene.sender.redis) >= 2, what="a second writer")
        with scene.connection.transaction():
            scene.connection.execute("LOCK TABLE segments IN SHARE MODE")
            for number, password in enumerate((first, elsewhere), start=1):
                scene.sender.send(password, 5)
                scene.wait_for_drains_held_up(number)
            _kill(killed)
        scene.taken_up()
        scene.sender.check_all()


def test_a_writer_that_hangs_in_a_drain_loses_its_shards(scene: Scene) -> None:
    hanging = scene.stack.start_writer()
    with scene.connection.transaction():
        scene.connection.execute("LOCK TABLE ingest_sessions IN SHARE MODE")
        scene.arrive_until(lambda: scene.number(_WAITING_FOR_LOCK) == 1, "a drain held up")
        hanging.kill(signal.SIGSTOP)
    try:
        scene.stack.start_writer()
        scene.taken_up()
        scene.sender.check_all()
    finally:
        hanging.kill(signal.SIGCONT)
    for password in PASSWORDS:
        scene.sender.send(password, 3)
    scene.taken_up()
    scene.sender.check_all()
    assert hanging.poll() is None


def _writers(redis: "Redis") -> int:
    return len(cast("set[bytes]", redis.smembers("rq:workers")))
