"""An entry that can't be opened becomes a dead letter once and delays no other entry."""

from collections.abc import Callable
from typing import Any, cast

import psycopg
import pytest

from integration.writer.sending import Sealed, Sender
from iot_models.audit_event import describe
from iot_writer.drain import drain
from iot_writer.drain.drain import DrainOutcome
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.samples import sample_value

PASSWORD = b"p"


def _elsewhere(sender: Sender) -> Sealed:
    other = (sender.shard(PASSWORD) + 1) % sender.settings.shards
    _, sealed = sender.seal(PASSWORD, ["moved"], shard=other)
    return sender.shard(PASSWORD), sealed


def _flipped(place: int) -> Callable[[Sender], Sealed]:
    def spoil(sender: Sender) -> Sealed:
        shard, sealed = sender.seal(PASSWORD, ["flipped"])
        spoiled = bytearray(sealed)
        spoiled[place] ^= 1
        return shard, bytes(spoiled)

    return spoil


def _cut(length: int) -> Callable[[Sender], Sealed]:
    def spoil(sender: Sender) -> Sealed:
        shard, sealed = sender.seal(PASSWORD, ["cut"])
        return shard, sealed[:length]

    return spoil


def _no_entry(sender: Sender) -> Sealed:
    shard = sender.shard(PASSWORD)
    return shard, sender.sealer.seal(shard, b"\2 is no format of an entry")


def _columns_that_differ(sender: Sender) -> Sealed:
    return sender.seal(PASSWORD, ["one\0two"])


UNOPENED = "a ciphertext could not be opened"
SPOILED: dict[str, tuple[Callable[[Sender], Sealed], str]] = {
    "moved to another shard": (_elsewhere, UNOPENED),
    "format flipped": (_flipped(0), "unknown format"),
    "key id flipped": (_flipped(4), "the master key"),
    "session flipped": (_flipped(10), UNOPENED),
    "number flipped": (_flipped(28), UNOPENED),
    "nonce flipped": (_flipped(30), UNOPENED),
    "text flipped": (_flipped(60), UNOPENED),
    "tag flipped": (_flipped(-1), UNOPENED),
    "empty": (_cut(0), "unknown format"),
    "cut in the header": (_cut(20), "unknown format"),
    "cut in the nonce": (_cut(35), UNOPENED),
    "cut in the text": (_cut(-1), UNOPENED),
    "no entry": (_no_entry, "unknown format"),
    "columns that differ": (_columns_that_differ, "differ in length"),
}


def _dead() -> float:
    return sample_value("iot_entries_dead_total") or 0.0


def _letters(sender: Sender) -> list[dict[bytes, bytes]]:
    entries = sender.redis.xrange(KEYS.dead_letters)
    return [fields for _, fields in cast("list[tuple[bytes, dict[bytes, bytes]]]", entries)]


@pytest.mark.parametrize("kind", SPOILED)
def test_a_damaged_entry_is_set_aside_once_with_its_reason(
    kind: str, writer: Writer, sender: Sender
) -> None:
    spoil, reason = SPOILED[kind]
    counted = _dead()
    shard, sealed = spoil(sender)
    sender.backlog.append([sender.seal(PASSWORD, ["before"])])
    sender.backlog.append([(shard, sealed)])
    sender.backlog.append([sender.seal(PASSWORD, ["after"])])
    with pytest.MonkeyPatch.context() as patch:  # the first drain of the entry fails
        patch.setattr(writer.drain, "_store", _away)
        with pytest.raises(ConnectionError):
            writer.drain.run(writer.postgres(), [shard])
    drain_all(writer)

    assert sender.texts(PASSWORD) == ["before", "after"]
    (letter,) = _letters(sender)
    assert letter[b"shard"] == b"%d" % shard
    assert letter[b"e"] == sealed
    assert reason in letter[b"reason"].decode()
    assert _dead() == counted + 1
    lines = [describe(line) for _, _, line in writer.audit.latest(writer.postgres(), 10)]
    assert lines == [
        f"entry {letter[b'id'].decode()} of shard {shard} was set aside: "
        + letter[b"reason"].decode()
    ]
    state = sender.backlog.state()
    assert (state.bytes, state.dead_letters, sum(state.entries.values())) == (0, 1, 0)


def _away(*_: object) -> None:
    raise ConnectionError


def test_a_shard_of_damaged_entries_is_drained(writer: Writer, sender: Sender) -> None:
    shard = sender.shard(PASSWORD)
    for number in range(300):
        sender.backlog.append([(shard, b"no entry %d" % number)])
    assert writer.drain.run(writer.postgres(), [shard]).outcomes == {shard: DrainOutcome.REPEATED}
    assert [letter[b"e"] for letter in _letters(sender)] == [
        b"no entry %d" % number for number in range(300)
    ]
    sender.send(PASSWORD)
    drain_all(writer)
    sender.check_all()


def test_many_damaged_entries_begin_new_sessions(
    writer: Writer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gap that is too long for the ledger counts as stored, so a replay would store nothing."""
    monkeypatch.setattr(drain, "MANY_MISSING", 3)
    shard = sender.shard(PASSWORD)
    for count, renewals in ((2, None), (1, b"1"), (3, b"1")):  # at most one in ten seconds
        sender.backlog.append([(shard, b"no entry %d" % number) for number in range(count)])
        drain_all(writer)
        assert sender.redis.hget(KEYS.backlog_counters, "session_renewals") == renewals


@pytest.mark.parametrize("planted", [{"x": "1"}, {"e": "?"}, {"e": "?", "t": "many"}, {"t": "1"}])
def test_an_entry_with_wrong_fields_delays_no_other(
    planted: dict[Any, Any], writer: Writer, sender: Sender
) -> None:
    shard = sender.shard(PASSWORD)
    sender.redis.xadd(KEYS.stream(shard), planted)
    sender.backlog.append([sender.seal(PASSWORD, ["behind it"])])
    drain_all(writer)
    assert len(_letters(sender)) == 1
    assert sender.texts(PASSWORD) == ["behind it"]
    assert sender.backlog.state().bytes == 0


def test_a_damaged_copy_does_not_use_up_the_number_of_its_entry(
    writer: Writer, sender: Sender
) -> None:
    shard, sealed = sender.seal(PASSWORD, ["whole"])
    sender.backlog.append([(shard, sealed[:-1])])
    drain_all(writer)
    sender.backlog.append([(shard, sealed)])
    drain_all(writer)
    assert sender.texts(PASSWORD) == ["whole"]


def test_an_entry_is_recorded_although_the_session_of_postgres_ends(
    writer: Writer, sender: Sender, postgres: psycopg.Connection
) -> None:
    sender.backlog.append([(0, b"no entry")])
    session = writer.postgres().info.backend_pid
    postgres.execute("SELECT pg_terminate_backend(%s, 5000)", (session,))
    with pytest.raises(psycopg.OperationalError):
        writer.drain_shards([0])
    writer.drop_postgres()
    drain_all(writer)
    (line,) = (describe(line) for _, _, line in writer.audit.latest(writer.postgres(), 10))
    assert "of shard 0 was set aside" in line
    assert len(_letters(sender)) == 1
