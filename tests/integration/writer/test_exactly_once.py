"""Whatever is killed at whatever point: nothing is lost, nothing is stored twice."""

import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from redis import Redis

from integration.writer.sending import Sender
from iot_stores import history, ledger
from iot_stores.postgres import Connection
from iot_tools.local.child import Child
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance.partitions import ensure_months_ahead
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all
from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

PASSWORDS = [b"password-%d" % number for number in range(24)]
TAKEN_UP_SECONDS = 15

_WAITING_FOR_LOCK = """
    SELECT count(*) FROM pg_locks
    WHERE relation IN ('segments'::regclass, 'ingest_sessions'::regclass) AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_STORED = "SELECT coalesce(sum(count), 0)::int8 FROM segments"
_POSITIONS = "SELECT shard, position FROM ingest_offsets"


class Scene:
    """Writers as processes, readings that arrive meanwhile, and ways to stop a writer in a drain.

    A kill `before_commit` finds the writer in its transaction, held up at the segments' table;
    one `after_commit` finds it before its first write to Redis after it committed; one at
    `some_time` comes after some more readings are stored.
    """

    def __init__(self, stack: Stack, sender: Sender, connection: Connection) -> None:
        self.stack = stack
        self.sender = sender
        self.connection = connection
        self.random = random.Random(20140318)
        self.seen = {"committed, not trimmed": 0, "not committed": 0}

    def arrive(self) -> None:
        """One more request."""
        self.sender.send(self.random.choice(PASSWORDS), self.random.randint(1, 40))

    def arrive_until(self, condition: Callable[[], bool], what: str) -> None:
        """Requests go on until something is so."""

        def once() -> bool:
            self.arrive()
            return condition()

        wait_until(once, what=what)

    def shard(self, password: bytes) -> int:
        """The shard that takes the password's readings."""
        return self.sender.shard(password)

    def wait_for_drains_held_up(self, number: int) -> None:
        """So many writers are in a drain, at the segments' table."""
        wait_until(lambda: self.number(_WAITING_FOR_LOCK) == number, what="drains held up")

    def number(self, statement: str) -> int:
        """A statement's one number."""
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
        """The n-th kill of a run."""
        ways = (self.kill_before_commit, self.kill_after_commit, self.kill_at_some_time)
        ways[number % len(ways)](writer)

    def taken_up(self) -> None:
        """What waits is stored without any new request, in time."""
        wait_until(lambda: self.sender.waiting() == 0, seconds=40, what="an empty backlog")

    def _committed_not_trimmed(self) -> bool:
        rows = self.connection.execute(_POSITIONS).fetchall()
        for shard, position in cast("list[tuple[int, str]]", rows):
            if self.sender.redis.xrange(KEYS.stream(shard), position, position):
                return True
        return False


def _pause_writes(redis: "Redis") -> None:
    redis.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")  # type: ignore[no-untyped-call]


def _kill(process: Child) -> None:
    assert process.poll() is None, "the writer ended by itself"
    process.kill()
    process.wait()


@pytest.fixture
def scene(environment: dict[str, str], sender: Sender, postgres_url: str, tmp_path: Path) -> Any:
    """Writers as processes on empty stores."""
    stack = Stack(environment, tmp_path)
    for password in PASSWORDS:
        sender.vault(password)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        ensure_months_ahead(connection, now())
        yield Scene(stack, sender, connection)
        stack.stop()


def test_a_writer_killed_twenty_times_and_replaced(scene: Scene) -> None:
    for number in range(20):
        scene.kill(scene.stack.start_writer(), number)
    assert scene.seen == {"not committed": 7, "committed, not trimmed": 7}
    assert scene.sender.waiting() > 0
    scene.stack.start_writer()
    scene.taken_up()
    scene.sender.check_all()


def test_a_writer_killed_while_another_lives_on(scene: Scene) -> None:
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


class _Stop(Exception):  # noqa: N818 - not an error: the moment at which the writer is no more
    """Stands for the process's end."""


def _stop(*_: object, **__: object) -> None:
    raise _Stop


def _stop_after(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> None:
        original(*arguments, **named)
        raise _Stop

    return call


def _after_read(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.drain, "_store", _stop)


def _after_lock(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(ledger, "lock_offsets", _stop_after(ledger.lock_offsets))


def _after_insert(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(history, "insert", _stop_after(history.insert))


def _before_commit(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    del writer
    patch.setattr(ledger, "save_offsets", _stop_after(ledger.save_offsets))


def _after_commit(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.drain._hot_window, "write", _stop)  # noqa: SLF001 - the step to stop at


def _after_hot_window(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.backlog, "remove", _stop)


def _after_remove(writer: Writer, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writer.backlog, "remove", _stop_after(writer.backlog.remove))


STEPS = {
    step.__name__.strip("_"): step
    for step in (
        _after_read,
        _after_lock,
        _after_insert,
        _before_commit,
        _after_commit,
        _after_hot_window,
        _after_remove,
    )
}


@pytest.mark.parametrize("stops", [1, 3])
@pytest.mark.parametrize("step", STEPS)
def test_a_drain_that_stops_at_a_step_is_done_by_the_next(
    step: str, stops: int, writer: Writer, sender: Sender
) -> None:
    passwords = [b"a", b"b", b"c"]
    for password in passwords:
        sender.send(password, 3)
    drain_all(writer)
    for password in passwords:
        sender.send(password, 2)
        sender.send(password, 5)
    for _ in range(stops):
        with pytest.MonkeyPatch.context() as patch:
            STEPS[step](writer, patch)
            with pytest.raises(_Stop):
                writer.drain.run(writer.postgres(), [sender.shard(b"a")])
        if step != "after_commit":  # what is not in the hot window is missed up to the next drain
            _sees_what_is_stored(sender, passwords)
        sender.send(b"a", 1)
    drain_all(writer)
    sender.check_all()
    _sees_what_is_stored(sender, passwords)
    assert sender.waiting() == 0
    assert sender.backlog.state().bytes == 0
    assert sender.backlog.state().dead_letters == 0


def _sees_what_is_stored(sender: Sender, passwords: list[bytes]) -> None:
    for password in passwords:
        assert sender.last_seconds(password, 60) == sender.texts(password)


def test_what_the_next_drain_meets_again_is_told(writer: Writer, sender: Sender) -> None:
    sender.send(b"a", 3)
    shard = sender.shard(b"a")
    with pytest.MonkeyPatch.context() as patch:
        _after_commit(writer, patch)
        with pytest.raises(_Stop):
            writer.drain.run(writer.postgres(), [shard])
    assert sender.waiting() == 1
    assert writer.drain.run(writer.postgres(), [shard]).outcomes == {shard: DrainOutcome.REPEATED}
    assert sender.waiting() == 0
