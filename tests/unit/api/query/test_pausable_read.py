"""Reads produce their readings in turns: slots, time limits, one large segment at a time."""

from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from iot_api.limits.clients import Client
from iot_api.query import pausable_read
from iot_api.query.pausable_read import Batches, Page, PausableRead, ReadSlots
from iot_models.errors import UnavailableError
from iot_models.reading import Reading

BATCHES = 6


class Reads:
    """Reads that yield numbers from 0 on, two in a batch. Counts the turns."""

    def __init__(self, pool_size: int = 2) -> None:
        self.slots = ReadSlots(pool_size)
        self.turns = 0
        self.open = 0

    def read(self, client: str, *, large: bool = False) -> PausableRead:
        return PausableRead(self.slots, Client(client), lambda read: self._all(read, large=large))

    def _all(self, read: PausableRead, *, large: bool) -> Batches:
        def produce(page: Page) -> Batches:
            begin = page.cursor.after[1] + 1 if page.cursor else 0
            with read.slot(self.slots.postgres):
                if large:
                    read.claim_large_segment()
                self.turns += 1
                self.open += 1
                try:
                    for number in range(begin, 2 * BATCHES, 2):
                        yield [Reading("", "", each, 0, 0) for each in (number, number + 1)]
                finally:
                    self.open -= 1
            return None

        return (yield from read.through(produce, Page()))


@pytest.fixture
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every wait for a slot time out at once."""
    monkeypatch.setattr(pausable_read, "FIRST_TURN_SECONDS", 0.05)
    monkeypatch.setattr(pausable_read, "NEXT_TURN_SECONDS", 0.1)


def ids(batches: Iterator[Sequence[Reading]]) -> list[int]:
    return [reading.id for batch in batches for reading in batch]


def test_a_read_without_pauses_takes_one_turn() -> None:
    reads = Reads()
    assert ids(iter(reads.read("a"))) == list(range(12))
    assert (reads.turns, reads.open) == (1, 0)


@pytest.mark.usefixtures("_short_waits")
def test_a_read_without_a_slot_is_unavailable() -> None:
    reads = Reads()
    with closing(iter(reads.read("a"))) as first:
        next(first)
        with pytest.raises(UnavailableError, match="too many reads"):
            next(iter(reads.read("b")))
    assert ids(iter(reads.read("b"))) == list(range(12))


@pytest.mark.usefixtures("_short_waits")
def test_a_paused_read_releases_its_slot() -> None:
    reads = Reads()
    read = reads.read("a")
    batches = iter(read)
    given = ids(iter([next(batches)]))
    read.pause()
    assert reads.open == 0
    other = iter(reads.read("b"))
    next(other)
    with pytest.raises(UnavailableError):  # in the middle of a response, which is truncated
        next(batches)
    other.close()
    assert given == [0, 1]


def test_a_read_continues_behind_the_readings_that_were_used() -> None:
    reads = Reads()
    read = reads.read("a")
    batches = iter(read)
    assert ids(iter([next(batches)])) == [0, 1]
    read.pause(1)
    read.pause(1)
    assert ids(batches) == list(range(1, 13))
    read.pause()
    assert reads.turns == 2


def test_a_turn_ends_when_others_wait_or_at_its_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pausable_read, "SLICE_SECONDS", 0)
    reads = Reads()
    read = reads.read("a")
    batches = iter(read)
    next(batches)
    assert not read.is_due
    monkeypatch.setattr(pausable_read, "TURN_SECONDS", 0)
    assert read.is_due
    assert ids(batches) == list(range(2, 12))
    assert reads.turns == BATCHES + 1  # the last turn finds nothing
    assert not read.is_due


def test_one_read_at_a_time_opens_a_large_segment() -> None:
    reads = Reads(pool_size=4)
    first, second = (reads.read(client, large=True) for client in "ab")
    batches, others = iter(first), iter(second)
    next(batches)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pausable_read, "LARGE_SECONDS", 0.05)
        with pytest.raises(UnavailableError):
            next(others)
    assert reads.open == 1
    assert ids(iter(reads.read("c"))) == list(range(12))  # needs no turn
    first.pause()
    third = iter(reads.read("d", large=True))
    next(third)
    third.close()
    assert ids(batches) == list(range(2, 12))
    assert reads.open == 0


def test_a_read_that_fails_releases_everything() -> None:
    reads = Reads()

    def plan(read: PausableRead) -> Batches:
        def produce(page: Page) -> Batches:
            del page
            with read.slot(reads.slots.postgres):
                read.claim_large_segment()
                yield [Reading("", "", 1, 0, 0)]
                raise ZeroDivisionError

        return (yield from read.through(produce, Page()))

    with pytest.raises(ZeroDivisionError):
        list(PausableRead(reads.slots, Client("a"), plan))
    assert ids(iter(reads.read("b", large=True))) == list(range(12))
