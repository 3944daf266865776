"""Readings are stored once, in any order and number of arrivals of their entry."""

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from integration.writer.sending import SENDER, Sealed, Sender
from iot_api.ingest.parser import Batch
from iot_cipher.encryption import Sealer
from iot_cipher.keyring import KeyringFile
from iot_models.reading import ReadingColumns, int64s
from iot_models.settings import Settings
from iot_writer.drain.drain import MANY_MISSING
from iot_writer.writer import Writer
from support.draining import drain_all


@pytest.fixture
def api_processes(settings: Settings) -> list[Sealer]:
    """Sealers of several API processes."""
    keyring = KeyringFile(Path(settings.keyring_file))
    return [Sealer(keyring) for _ in range(4)]


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("drained_between", [False, True])
def test_an_entry_appended_again_is_stored_once(
    times: int, drained_between: bool, writer: Writer, sender: Sender
) -> None:
    sealed = sender.seal(b"p", ["twice", "told"])
    for _ in range(times):
        sender.backlog.append([sealed])
        if drained_between:
            drain_all(writer)
    drain_all(writer)
    assert sender.texts(b"p") == ["twice", "told"]
    assert sender.waiting() == 0


def test_an_entry_twice_in_one_request_is_stored_once(writer: Writer, sender: Sender) -> None:
    sealed = sender.seal(b"p", ["once"])
    sender.backlog.append([sealed, sealed])
    drain_all(writer)
    assert sender.texts(b"p") == ["once"]


def test_a_session_with_many_gaps_is_renewed(writer: Writer, sender: Sender) -> None:
    """Each drain rewrites all gaps of a session; a restore of Postgres may create many."""

    def put() -> bytes:
        columns = ReadingColumns(int64s([0]), int64s([7]), b"1")
        accepted = sender.service.intake.accept([Batch(b"p", columns)], SENDER, with_entries=True)
        drain_all(writer)
        return accepted.entries[0].session

    first = put()
    for _ in range(MANY_MISSING + 1):
        sender.service.intake._sealer.seal(sender.shard(b"p"), b"lost")  # noqa: SLF001 - numbers that no drain has seen
    assert put() == first
    put()  # its result contains the renewal
    second = put()
    assert second != first
    assert put() == second
    assert sender.texts(b"p") == ["1"] * 5


def test_shuffled_entries_of_many_sessions_are_stored_once(
    writer: Writer, sender: Sender, api_processes: list[Sealer]
) -> None:
    chance = random.Random(7)
    sealed: list[tuple[str, bytes, Sealed]] = []
    for number in range(900):
        password = b"p%d" % chance.randrange(5)
        entry = sender.seal(password, [number], sealer=chance.choice(api_processes))
        if chance.random() > 0.1:  # the others are sealed but not sent
            sealed.append((str(number), password, entry))
    arrivals = sealed + chance.choices(sealed, k=len(sealed))
    chance.shuffle(arrivals)
    order: dict[bytes, list[str]] = {}
    for place, (text, password, entry) in enumerate(arrivals):
        sender.backlog.append([entry])
        if text not in order.setdefault(password, []):
            order[password].append(text)
        if place % 400 == 0:
            drain_all(writer)
    drain_all(writer)
    for password, texts in order.items():
        assert sender.texts(password) == texts


def test_late_numbers_are_stored(writer: Writer, sender: Sender) -> None:
    entries = [sender.seal(b"p", [number]) for number in range(300)]
    sender.backlog.append([entries[-1]])
    drain_all(writer)
    for entry in entries[1:]:
        sender.backlog.append([entry])
    drain_all(writer)
    sender.backlog.append([entries[0]])
    drain_all(writer)
    assert sender.texts(b"p") == ["299", *map(str, range(1, 299)), "0"]


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.integers(0, 11), st.just("drain")), max_size=40), st.integers(0))
def test_entries_are_stored_once_in_any_order_of_arrivals_and_drains(
    writer: Writer, sender: Sender, steps: list[int | str], example: int
) -> None:
    password = b"example %d" % example
    sealed = [sender.seal(password, [number]) for number in range(12)]
    before = Counter(sender.texts(password))
    for step in steps:
        if isinstance(step, int):
            sender.backlog.append([sealed[step]])
        else:
            writer.drain.run(writer.postgres(), [sender.shard(password)])
    drain_all(writer)
    stored = Counter(sender.texts(password)) - before
    assert stored == Counter({str(step) for step in steps if isinstance(step, int)})
