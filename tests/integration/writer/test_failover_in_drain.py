"""Redis fails over in the middle of a drain, to a replica that lacks the newest entries.

These tests imitate the failover: they bring Redis back to its earlier state, between the commit of
a drain and the removal of its entries. `test_failover_clocks.py` has a real failover.
"""

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from integration.writer.sending import Sender
from iot_stores.stream_entries import Removal
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS

P = b"p"
AHEAD_MILLISECONDS = 5000
"""How far the clock of the old master is ahead."""

DrainDuringFailover = Callable[[Callable[[], None], Callable[[], None]], None]


@pytest.fixture
def drain_during_failover(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> DrainDuringFailover:
    """A function that drains what its first argument sends. Between the commit and the removal, a
    failover loses these entries, and the second argument sends others to the new master."""

    def run(send_lost: Callable[[], None], send_others: Callable[[], None]) -> None:
        replicated = {key: sender.redis.dump(key) for key in sender.redis.scan_iter()}
        send_lost()
        remove = writer.backlog.remove

        def fail_over_and_remove(removals: list[Removal]) -> list[bool]:
            sender.redis.flushall()
            for key, value in replicated.items():
                sender.redis.restore(key, 0, cast("bytes", value))
            send_others()
            return remove(removals)

        with monkeypatch.context() as patch:
            patch.setattr(writer.backlog, "remove", fail_over_and_remove)
            assert set(writer.drain_shards([sender.shard(P)]).outcomes.values()) == {
                DrainOutcome.STORED
            }

    return run


def send_with_id(sender: Sender, entry_id: int) -> None:
    """Append the next reading, with the id that a clock which is ahead would have given it."""
    sender.send(P)
    stream = KEYS.stream(sender.shard(P))
    ((sent_id, fields),) = cast("list[Any]", sender.redis.xrevrange(stream, count=1))
    sender.redis.xdel(stream, sent_id)
    sender.redis.xadd(stream, fields, id=str(entry_id))


def check_drained(sender: Sender) -> None:
    """Check that all readings are stored, and that the counters of the shard agree."""
    shard = sender.shard(P)
    names = [f"in:{shard}", f"out:{shard}", "bytes"]
    added, removed, waiting = sender.redis.hmget(KEYS.backlog_counters, names)
    assert (added, waiting) == (removed, b"0")
    assert sender.waiting() == 0
    sender.check_all()


@pytest.mark.parametrize("before", [0, 1], ids=["empty", "drained before"])
@pytest.mark.parametrize("ahead", [0, AHEAD_MILLISECONDS])
def test_entries_of_the_new_master_stay(
    writer: Writer,
    sender: Sender,
    drain_during_failover: DrainDuringFailover,
    ahead: int,
    before: int,
) -> None:
    for _ in range(before):
        sender.send(P)
        drain_all(writer)
    moment = int(time.time() * 1000) + ahead
    drain_during_failover(
        lambda: send_with_id(sender, moment) if ahead else sender.send(P, 20),
        lambda: sender.send(P),
    )
    shard = sender.shard(P)
    progress = sender.backlog.progress([shard])[shard]
    assert (progress.entries, sender.waiting()) == (1, 1)
    assert progress.bytes > 0
    assert not sender.backlog.all_removed(sender.backlog.ends())
    drain_all(writer)
    check_drained(sender)


def test_an_entry_with_the_id_of_the_lost_entry_stays(
    writer: Writer, sender: Sender, drain_during_failover: DrainDuringFailover
) -> None:
    moment = int(time.time() * 1000) + AHEAD_MILLISECONDS
    drain_during_failover(
        lambda: send_with_id(sender, moment), lambda: send_with_id(sender, moment)
    )
    assert sender.waiting() == 1
    drain_all(writer)
    check_drained(sender)


def test_entries_that_the_replica_has_are_not_stored_again(
    writer: Writer, sender: Sender, drain_during_failover: DrainDuringFailover
) -> None:
    sender.send(P)  # the replica has this entry
    drain_during_failover(lambda: sender.send(P), lambda: sender.send(P))
    assert sender.waiting() == 2
    drain_all(writer)
    check_drained(sender)


def test_a_late_removal_leaves_a_stream_that_began_again(writer: Writer, sender: Sender) -> None:
    """Two writers read an entry with a planted id. Its removal restarts the ids of the stream."""
    sender.send(P)
    shard = sender.shard(P)
    sender.redis.xadd(KEYS.stream(shard), {"e": b"planted", "t": 0}, id="18446744073709551615-7")
    planted = read_waiting(sender.backlog, shard)[-1]
    drain_all(writer)
    sender.send(P)
    late = Removal(shard, planted, planted.entry_id.decode(), 1)
    assert sender.backlog.remove([late]) == [True]
    drain_all(writer)
    sender.check_all()


def test_an_entry_that_another_program_deletes_stops_no_drain(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        sender.send(P)
    remove = writer.backlog.remove

    def delete_and_remove(removals: list[Removal]) -> list[bool]:
        (removal,) = removals
        sender.redis.xdel(KEYS.stream(removal.shard), removal.last.entry_id)
        return remove(removals)

    with monkeypatch.context() as patch:
        patch.setattr(writer.backlog, "remove", delete_and_remove)
        result = writer.drain_shards([sender.shard(P)])
    assert result.left == [sender.shard(P)]
    drain_all(writer)
    assert sender.waiting() == 0
    sender.check_all()
