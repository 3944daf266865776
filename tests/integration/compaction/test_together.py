"""Drains, retention, two compactions and reads run concurrently without errors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from integration.compaction.past import Past, each_second, noon
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


def test_drains_retention_compaction_and_reads_at_once(past: Past, writers: list[Writer]) -> None:
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
        enforce(keeping.postgres(), keeping.audit, days=30, redis_now=now())

    works: list[Callable[[], object]] = [retain, lambda: drain_all(draining)]
    works += [partial(one.compaction.run, one.postgres()) for one in merging]
    threads = [threading.Thread(target=again_and_again, args=(each,)) for each in works]
    kept = []
    for thread in threads:
        thread.start()
    for number in range(ROUNDS):
        for days, each in ((32, 1), (31, 3), (3, 1), (2, 2)):
            sent = each_second(noon(days) + number * 1_000_000, 70, seed=number)
            past.store(PASSWORD, sent, each=each)
            kept += [text for *_, text in sent] if days < 30 else []
        past.sender.send(b"live", 5)
        past.look(PASSWORD)
        assert set(past.sender.texts(PASSWORD)) >= set(kept)
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
