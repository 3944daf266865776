"""Entries too old for the ledger, and entries whose ids are not valid times."""

from collections.abc import Callable
from typing import Any

import pytest

from integration.writer.sending import Sealed, Sender
from iot_stores.dead_letters import DeadLetter, DeadLetters
from iot_stores.forgotten import TOO_OLD_MS
from iot_stores.months import END_MS
from iot_tools.cli.main import main
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all, read_waiting
from support.keys import KEYS

PASSWORD = b"p"


def plant(sender: Sender, sealed: Sealed, entry_id: str) -> None:
    """Add an entry with a given id, as a restored copy of Redis has it."""
    shard, content = sealed
    fields: dict[Any, Any] = {"e": content, "t": 0}
    sender.redis.xadd(KEYS.stream(shard), fields, id=entry_id)


def old(sender: Sender, text: str = "old", *, sealed: int = 0, received: int = 0) -> None:
    """Add an entry that is too old by a second, with its times moved by some milliseconds."""
    moment = now() - TOO_OLD_MS - 1000
    entry = sender.seal(PASSWORD, [text], sealed_at=moment + sealed)
    plant(sender, entry, f"{moment + received}-0")


def letters(writer: Writer) -> list[DeadLetter]:
    return list(DeadLetters(writer.redis, KEYS).all())


@pytest.fixture
def command(command_environment: None) -> Callable[..., int]:  # noqa: ARG001
    """A function that runs `iot-sensor` on the stores of the test."""
    return lambda *arguments: main(list(arguments))


def test_an_old_entry_of_an_unknown_session_is_set_aside(
    writer: Writer,
    sender: Sender,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    old(sender)
    drain_all(writer)
    (letter,) = letters(writer)
    assert letter.reason.startswith("sealed more than 60 days ago")
    assert sender.texts(PASSWORD) == []
    for which in ("--all", letter.letter_id):
        assert command("dead", "replay", which) == 1
        assert "to replay it, pass --even-if-stored" in capsys.readouterr().out
        drain_all(writer)
        assert letters(writer) == [letter]
    assert command("dead", "replay", "--all", "--even-if-stored") == 0
    drain_all(writer)
    assert letters(writer) == []
    assert sender.texts(PASSWORD) == ["old"]


def test_an_old_entry_of_a_known_session_is_stored(writer: Writer, sender: Sender) -> None:
    """The ledger knows whether each entry of the session is stored, so the age does not matter."""
    shard, stored = sender.seal(PASSWORD, ["stored"], sealed_at=now() - TOO_OLD_MS - 1000)
    plant(sender, (shard, stored), f"{now() - TOO_OLD_MS - 2000}-0")
    sender.redis.xtrim(KEYS.stream(shard), 0)
    sender.backlog.append([(shard, stored)])
    drain_all(writer)
    sender.redis.delete(KEYS.stream(shard))
    plant(sender, (shard, stored), f"{now() - TOO_OLD_MS - 1500}-0")
    old(sender, "not stored")
    drain_all(writer)
    assert letters(writer) == []
    assert sender.texts(PASSWORD) == ["stored", "not stored"]


@pytest.mark.parametrize(("sealed", "received"), [(60_000, 0), (0, 60_000)])
def test_an_entry_is_too_old_only_by_both_clocks(
    writer: Writer, sender: Sender, sealed: int, received: int
) -> None:
    """The clock of Redis or the clock of the API was behind."""
    old(sender, sealed=sealed, received=received)
    drain_all(writer)
    assert letters(writer) == []
    assert sender.texts(PASSWORD) == ["old"]


@pytest.mark.parametrize("reason", ["sealed more than 60 days ago", "unknown master key"])
def test_a_dead_letter_of_an_earlier_version_is_replayed(
    writer: Writer, sender: Sender, command: Callable[..., int], reason: str
) -> None:
    """An earlier version set the entry aside because the clock of the API was behind."""
    sealed = sender.seal(PASSWORD, ["taken"], sealed_at=now() - TOO_OLD_MS - 1000)
    sender.backlog.append([sealed])
    (waiting,) = read_waiting(sender.backlog, sealed[0], max_bytes=1)
    DeadLetters(writer.redis, KEYS).add(sealed[0], waiting, reason)
    sender.redis.xtrim(KEYS.stream(sealed[0]), 0)
    assert command("dead", "replay", "--all") == 0
    drain_all(writer)
    assert letters(writer) == []
    assert sender.texts(PASSWORD) == ["taken"]


IMPOSSIBLE = {
    "after the year 9999": f"{END_MS + 31 * 86_400_000}-0",
    "in a month without a next one": f"{END_MS}-0",
    "beyond 63 bits": f"{2**63}-7",
    "the last one": f"{2**64 - 1}-{2**64 - 1}",
    "the last of a moment": f"{2**64 - 2}-{2**64 - 1}",
}


@pytest.mark.parametrize("entry_id", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_an_entry_with_an_impossible_id_is_set_aside(
    writer: Writer,
    sender: Sender,
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    entry_id: str,
) -> None:
    """Ids only grow within a stream, so the ids of later entries would be invalid, too."""
    sender.send(PASSWORD, 2)
    shard, sealed = sender.seal(PASSWORD, ["planted"])
    plant(sender, (shard, sealed), entry_id)
    drain_all(writer)
    (letter,) = letters(writer)
    assert letter.reason == "the entry's id names a time after the year 9999"
    assert command("dead", "list") == command("dead", "show", letter.letter_id) == 0
    assert "after the year 9999" in capsys.readouterr().out
    sender.send(PASSWORD, 2)
    drain_all(writer)
    assert len(letters(writer)) == 1
    sender.check_all()
    assert sender.last_seconds(PASSWORD, 60) == ["0", "1", "2", "3"]
    assert command("dead", "replay", letter.letter_id) == 0
    drain_all(writer)
    assert letters(writer) == []
    assert sender.texts(PASSWORD) == ["0", "1", "2", "3", "planted"]
    assert sender.waiting() == 0


def test_an_entry_of_the_last_possible_month_is_stored(writer: Writer, sender: Sender) -> None:
    plant(sender, sender.seal(PASSWORD, ["late"]), f"{END_MS - 1}-0")
    drain_all(writer)
    assert sender.texts(PASSWORD) == ["late"]
