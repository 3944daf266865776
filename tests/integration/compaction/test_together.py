"""Drains, retention, two compactions and reads run concurrently without errors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial

import pytest

from integration.compaction.past import Past, days_ago, each_second, noon
from iot_models.settings import Settings
from iot_writer.maintenance.retention import enforce
from iot_writer.writer import Writer
from support.clock import now
from support.draining import drain_all

PASSWORD = b"p"
ROUNDS = 12


@pytest.fixture
def writers(settings: Settings) -> Iterator[list[Writer]]:
    """One writer for each thread."""
    with ExitStack() as stack:
        made = [Writer(settings) for _ in range(4)]
        for each in made:
            stack.callback(each.close)
        yield made


def retention_days() -> int:
    """Return about 30 days. The limit is not at the beginning of a month: retention would drop the
    partition of the month before, in which the test stores readings.
    """
    return 30 if datetime.fromtimestamp(days_ago(30) / 1000, UTC).day > 3 else 26


def test_drains_retention_compaction_and_reads_at_once(past: Past, writers: list[Writer]) -> None:
    limit = retention_days()
    keeping, draining, *merging = writers
    done = threading.Event()
    failed: list[BaseException] = []

    def again_and_again(work: Callable[[], object]) -> None:
        while not done.is_set():
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - reported at the end
                failed.append(error)
                return

    def retain() -> None:
        enforce(keeping.postgres(), keeping.audit, days=limit, redis_now=now())

    works: list[Callable[[], object]] = [retain, lambda: drain_all(draining)]
    works += [partial(one.compaction.run, one.postgres()) for one in merging]
    threads = [threading.Thread(target=again_and_again, args=(each,)) for each in works]
    kept = []
    for thread in threads:
        thread.start()
    try:
        for number in range(ROUNDS):
            for days, each in ((limit + 2, 1), (limit + 1, 3), (3, 1), (2, 2)):
                sent = each_second(noon(days) + number * 1_000_000, 70, seed=number)
                past.store(PASSWORD, sent, each=each)
                kept += [text for *_, text in sent] if days < limit else []
            past.sender.send(b"live", 5)
            past.look(PASSWORD)
            assert set(past.sender.texts(PASSWORD)) >= set(kept)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failed == []
    drain_all(draining)
    retain()
    past.compact(PASSWORD)
    assert sorted(past.sender.texts(PASSWORD)) == sorted(kept)
    assert len({reading.id for reading in past.readings(PASSWORD)}) == len(kept)
    assert len(past.counts(PASSWORD)) < ROUNDS
    past.sender.check_all()
