"""A read of the last seconds includes everything that a finished drain or an earlier drain
stored.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import RedisError

from integration.writer.sending import Sender, sending
from iot_models.settings import Settings, load
from iot_stores import history
from iot_stores.history import ReadFilter
from iot_stores.hot_window import HotWindow
from iot_stores.scripts import round_trip
from iot_writer.drain.drain import DrainOutcome
from iot_writer.maintenance.sweep import release_held
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.samples import sample_value

PASSWORD = b"p"
_numbers = itertools.count()


class _Stalled(Exception):  # noqa: N818 - not an error: a stalled writer
    """The writer stalls between its commit and the hot window."""


class Story:
    """One shard with drains that finish, stall and continue later, or die.

    The times of receipt cover the last minutes, so a read can start anywhere in the window.
    """

    def __init__(self, writer: Writer, sender: Sender, password: bytes) -> None:
        self.writer = writer
        self.sender = sender
        self.password = password
        self.shard = sender.shard(password)
        self.hot_window = HotWindow(sender.redis, KEYS, sender.backlog, seconds=300)
        self.received = [int(time.time() * 1000) - 250_000, 0]
        self.stalled: list[tuple[int, Callable[[], object]]] = []
        self.stored_by: list[set[int]] = []
        self.finished = -1
        """The latest drain whose hot window is written; the window covers all drains before it."""

    def send(self) -> None:
        self._send([self.received[0] + 5000, 0])

    def send_at_once(self) -> None:
        """Send a reading in the millisecond of the last reading."""
        self._send([self.received[0], self.received[1] + 1])

    def drain(self) -> None:
        number = self._store(stall=False)
        self.finished = max(self.finished, number)

    def stall(self) -> None:
        if self.sender.waiting():
            self._store(stall=True)

    def go_on_first(self) -> None:
        self._go_on(0)

    def go_on_last(self) -> None:
        self._go_on(-1)

    def die(self) -> None:
        if self.stalled:
            self.stalled.pop()

    def wipe(self) -> None:
        self.sender.redis.flushall()

    def check(self) -> None:
        """Check that only segments stored after the last finished drain are missing."""
        since = self.since()
        if since is None:
            return
        question = ReadFilter(received_low=since)
        vault_id = self.sender.vault(self.password).vault_id
        stored = history.select(self.writer.postgres(), vault_id, question)
        (found,) = self.hot_window.recent([], [(vault_id, since)]).bounds
        held = {bounds.first_id for bounds in found}
        unfinished = set[int]().union(*self.stored_by[self.finished + 1 :])
        assert {segment.bounds.first_id for segment in stored} - held <= unfinished

    def since(self) -> int | None:
        """Return the time from which the hot window claims to be complete."""
        found = self.sender.redis.hget(KEYS.hot_cover(self.shard), "since")
        return None if found is None else int(cast("bytes", found))

    def _send(self, received: list[int]) -> None:
        _, sealed = self.sender.seal(self.password, ["text"])
        entry_id = f"{received[0]}-{received[1]}"
        fields: dict[Any, Any] = {"e": sealed, "t": 0}
        self.sender.redis.xadd(KEYS.stream(self.shard), fields, id=entry_id)
        self.received = received

    def _store(self, *, stall: bool) -> int:
        before = self._segments()
        number = len(self.stored_by)
        hot_window = self.writer.drain._hot_window  # noqa: SLF001 - the step to stall at
        write = hot_window.write

        def held_up(*arguments: Any, **named: Any) -> bool:
            self.stalled.append((number, lambda: write(*arguments, **named)))
            raise _Stalled

        with pytest.MonkeyPatch.context() as patch:
            if stall:
                patch.setattr(hot_window, "write", held_up)
            try:
                drained = self.writer.drain.run(self.writer.postgres(), [self.shard])
            except _Stalled:
                assert stall
            else:
                if drained.outcomes[self.shard] is DrainOutcome.EMPTY:
                    return -1
        self.stored_by.append(self._segments() - before)
        return number

    def _segments(self) -> set[int]:
        vault_id = self.sender.vault(self.password).vault_id
        found = history.select(self.writer.postgres(), vault_id, ReadFilter())
        return {segment.bounds.first_id for segment in found}

    def _go_on(self, place: int) -> None:
        if self.stalled:
            number, write = self.stalled.pop(place)
            write()
            self.finished = max(self.finished, number)


STEPS = ("send", "send_at_once", "drain", "stall", "go_on_first", "go_on_last", "die", "wipe")


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(STEPS), max_size=30))
def test_any_interleaving_of_writers_keeps_the_coverage_correct(
    writer: Writer, sender: Sender, steps: list[str]
) -> None:
    sender.redis.flushall()
    password = b"%d" % next(_numbers)
    story = Story(writer, sender, password)
    while story.shard != sender.shard(b"0"):  # one shard, so that the offset has a past
        password = b"%d" % next(_numbers)
        story = Story(writer, sender, password)
    story.send()
    story.drain()
    for step in steps:
        getattr(story, step)()
        story.check()
    drain_all(writer)


@pytest.mark.parametrize(
    "steps",
    [
        "send stall die drain",
        "send stall die send drain",
        "send stall send stall die send drain go_on_first",
        "send stall send drain wipe go_on_first",
        "send drain wipe send drain",
        "send stall wipe send drain go_on_first",
        "send stall die send_at_once drain send_at_once drain",
    ],
)
def test_known_interleavings_keep_the_coverage_correct(
    steps: str, writer: Writer, sender: Sender
) -> None:
    story = Story(writer, sender, PASSWORD)
    story.send()
    story.drain()
    for step in steps.split():
        getattr(story, step)()
        story.check()


def test_the_window_covers_all_readings_without_failures(writer: Writer, sender: Sender) -> None:
    story = Story(writer, sender, PASSWORD)
    for _ in range(5):
        story.send()
        story.drain()
        story.drain()
    assert story.since() == 1


def test_a_gap_moves_the_covered_start_past_the_missing_segments(
    writer: Writer, sender: Sender
) -> None:
    story = Story(writer, sender, PASSWORD)
    for step in ("send", "drain", "send", "stall", "die"):
        getattr(story, step)()
    missing = story.received[0]
    story.send()
    story.drain()
    assert story.since() == missing + 1
    for _ in range(3):
        story.send()
        story.drain()
    assert story.since() == missing + 1


def test_coverage_restarts_after_redis_is_wiped(writer: Writer, sender: Sender) -> None:
    sender.send(PASSWORD, 2)
    drain_all(writer)
    sender.redis.flushall()
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1"]
    wiped = int(time.time() * 1000)
    sender.send(PASSWORD, 2)
    drain_all(writer)
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1", "2", "3"]
    since = Story(writer, sender, PASSWORD).since()
    assert since is not None
    assert wiped < since <= int(time.time() * 1000) + 1


def _reads(source: str) -> float:
    return sample_value("iot_reads_total", {"source": source}) or 0.0


def test_the_window_answers_alone_without_failures(writer: Writer, sender: Sender) -> None:
    for _ in range(5):
        sender.send(PASSWORD)
        drain_all(writer)
        before = _reads("hot_window")
        assert sender.last_seconds(PASSWORD, 60) == sender.texts(PASSWORD)
        assert _reads("hot_window") == before + 1


def test_evicted_segments_come_from_postgres(writer: Writer, sender: Sender) -> None:
    for _ in range(6):
        sender.send(PASSWORD, 3)
        drain_all(writer)
    keys = sorted(cast("list[bytes]", sender.redis.keys("iot:hot:segment:*")))
    assert len(keys) == 6
    sender.redis.delete(*keys[::2])
    before = _reads("hot_window")
    assert sender.last_seconds(PASSWORD, 60) == [str(number) for number in range(18)]
    assert _reads("hot_window") == before + 1


@pytest.mark.parametrize(("field", "other"), [("position", "1-1"), ("next_id", "1")])
def test_another_last_drain_moves_the_covered_start(
    writer: Writer, sender: Sender, field: str, other: str
) -> None:
    """The same position with another next id: Postgres lost a drain, and drained so far again."""
    story = Story(writer, sender, PASSWORD)
    story.send()
    story.drain()
    sender.redis.hset(KEYS.hot_cover(story.shard), field, other)
    last = story.received[0]
    story.send()
    story.drain()
    assert story.since() == last + 1


def test_a_cover_of_an_earlier_version_continues(writer: Writer, sender: Sender) -> None:
    """Writers of earlier versions note no next id."""
    story = Story(writer, sender, PASSWORD)
    story.send()
    story.drain()
    since = story.since()
    sender.redis.hdel(KEYS.hot_cover(story.shard), "next_id")
    story.send()
    story.drain()
    assert story.since() == since


def stall(*_: object) -> None:
    raise _Stalled


def refuse(*_: object) -> None:
    raise RedisError("full")


def new_passwords(sender: Sender) -> Iterator[bytes]:
    """Yield passwords of new vaults."""
    for number in itertools.count():
        sender.vault(password := b"new%d" % number)
        yield password


def save_postgres(writer: Writer) -> None:
    """Keep the state of the ledger and the history for `restore_postgres`."""
    postgres = writer.postgres()
    postgres.execute("CREATE TABLE saved_offsets AS TABLE ingest_offsets")
    postgres.execute("CREATE TABLE saved_sessions AS TABLE ingest_sessions")
    postgres.execute("CREATE TABLE saved_segments AS SELECT vault_id, first_id FROM segments")


def restore_postgres(writer: Writer) -> None:
    """Undo all drains since `save_postgres`."""
    postgres = writer.postgres()
    postgres.execute("TRUNCATE ingest_offsets, ingest_sessions")
    postgres.execute("INSERT INTO ingest_offsets TABLE saved_offsets")
    postgres.execute("INSERT INTO ingest_sessions TABLE saved_sessions")
    postgres.execute(
        "DELETE FROM segments WHERE (vault_id, first_id) NOT IN (TABLE saved_segments)"
    )


def test_a_restored_history_is_not_mixed_with_lost_segments(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres is restored to the state before two drains whose entries still wait; the next drain
    groups the entries into other segments.
    """
    story = Story(writer, sender, PASSWORD)
    story.send()
    story.drain()
    save_postgres(writer)
    with monkeypatch.context() as patch:
        patch.setattr(writer.drain._backlog, "remove", stall)  # noqa: SLF001 - the step to stall at
        for _ in range(2):
            story.send()
            with pytest.raises(_Stalled):
                writer.drain.run(writer.postgres(), [story.shard])
    restore_postgres(writer)
    for lost in (2, 3):
        story.drain()
        assert (story.since() or 0) > story.received[0], "the cover has the lost segments"
        # The range starts after the first reading, which is never lost.
        assert sender.last_seconds(PASSWORD, 243) == ["text"] * lost
        story.send()


def test_a_repeated_position_does_not_cover_lost_segments(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres loses a vault and the drain of its only entry. The next drain reaches the position
    of the lost one, because it holds the entry, and can't write the hot window.
    """
    sender.send(PASSWORD)
    drain_all(writer)
    save_postgres(writer)
    shard = sender.shard(PASSWORD)
    new = next(each for each in new_passwords(sender) if sender.shard(each) == shard)
    row = writer.postgres().execute(
        "SELECT vaults FROM vaults WHERE vault_id = %s", [sender.vault(new).vault_id]
    )
    ((vault,),) = row.fetchall()
    sender.send(new)
    with monkeypatch.context() as patch:
        patch.setattr(writer.drain._backlog, "remove", stall)  # noqa: SLF001 - the step to stall at
        with pytest.raises(_Stalled):
            writer.drain.run(writer.postgres(), [shard])
    restore_postgres(writer)
    writer.postgres().execute(
        "DELETE FROM vaults WHERE vault_id = %s", [sender.vault(new).vault_id]
    )
    with monkeypatch.context() as patch:
        patch.setattr(writer.drain._hot_window, "write", refuse)  # noqa: SLF001 - it refuses
        held = writer.drain.run(writer.postgres(), [shard])
    assert held.outcomes == {shard: DrainOutcome.HELD}
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.last_seconds(new, 60) == []
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1"]
    writer.postgres().execute("INSERT INTO vaults SELECT (%s::vaults).*", [vault])
    assert release_held(writer.held, writer.postgres) == 1
    drain_all(writer)
    assert sender.last_seconds(new, 60) == sender.texts(new) == ["0"]


def test_a_lengthened_window_answers_when_it_covers_its_length(
    environment: dict[str, str], sender: Sender
) -> None:
    short, long = (
        load(environment | {"IOT_HOT_WINDOW_SECONDS": seconds}) for seconds in ("10", "300")
    )
    sender.send(PASSWORD)
    _drain_with(short)
    # Simulate 10 seconds later: the index that was kept for 10 seconds has expired.
    sender.redis.delete(KEYS.hot_index(sender.vault(PASSWORD).vault_id.bytes))
    with sending(long) as later:
        assert later.last_seconds(PASSWORD, 60) == ["0"]
        later.numbers = sender.numbers
        later.send(PASSWORD)
        _drain_with(long)
        assert later.last_seconds(PASSWORD, 60) == ["0", "1"]


def _drain_with(settings: Settings) -> None:
    writer = Writer(settings)
    drain_all(writer)
    writer.close()


def test_a_read_notices_that_the_hot_window_loses_its_data_meanwhile(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send(PASSWORD)
    drain_all(writer)

    def one_by_one(client: "Redis", commands: Sequence[Sequence[Any]]) -> list[Any]:
        answers = round_trip(client, commands[:2])
        client.flushall()
        return answers + round_trip(client, commands[2:])

    monkeypatch.setattr("iot_stores.hot_window.round_trip", one_by_one)
    assert sender.last_seconds(PASSWORD, 60) == ["0"]


@pytest.mark.parametrize("ahead", [0, 200_000])
def test_an_emptied_window_covers_nothing_that_was_received_before_the_next_drain(
    writer: Writer, sender: Sender, ahead: int
) -> None:
    """It has lost the mark that hides erased readings, and a late writer may add such readings."""
    received = sender.backlog.now() + ahead
    sender.send_received(PASSWORD, received)
    drain_all(writer)
    sender.redis.delete(*sender.redis.keys("iot:hot:*"))
    sender.send(PASSWORD)
    before = sender.backlog.now()
    drain_all(writer)
    since = sender.redis.hget(KEYS.hot_cover(sender.shard(PASSWORD)), "since")
    assert int(cast("bytes", since)) > max(before, received)


def test_the_index_of_a_vault_in_use_does_not_grow(writer: Writer, sender: Sender) -> None:
    """Each drain extends the expiry of the index, so drains remove old segments from it."""
    index = KEYS.hot_index(sender.vault(PASSWORD).vault_id.bytes)
    sender.redis.zadd(index, {"old": 1})
    sender.send(PASSWORD)
    drain_all(writer)
    assert sender.redis.zscore(index, "old") is None
    assert sender.redis.zcard(index) == 1
    assert sender.redis.ttl(index) > 0


def test_a_window_of_zero_seconds_stays_empty(environment: dict[str, str], sender: Sender) -> None:
    settings = load(environment | {"IOT_HOT_WINDOW_SECONDS": "0"})
    sender.send(PASSWORD)
    _drain_with(settings)
    assert not sender.redis.keys("iot:hot:*")
    with sending(settings) as reader:
        assert reader.last_seconds(PASSWORD, 60) == ["0"]
