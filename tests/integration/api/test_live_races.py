"""No order of drains, compactions and reads leaves a gap in a live stream."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from integration.api.asking import PASSWORD
from integration.api.conftest import MakeApi
from integration.api.live_streams import listening, send, take
from integration.api.test_live import store
from iot_api.limits.clients import Client
from iot_api.live import listener, source, stream
from iot_api.vaults import compaction_planner
from iot_models.settings import Settings
from iot_stores.hot_window import DrainedShard, HotWindow
from iot_stores.postgres import Connection
from iot_stores.stored_since import FoundSize, StoredAfter, measure
from iot_writer.writer import Writer
from support.draining import drain_all
from support.live_events import LiveEvent
from support.waiting import wait_until


@pytest.fixture
def cold_writer(settings: Settings) -> Iterator[Writer]:
    """A writer that does not write to the hot window."""
    made = Writer(dataclasses.replace(settings, hot_window_seconds=0))
    yield made
    made.close()


def next_event(events: Iterator[LiveEvent]) -> LiveEvent:
    """Return the next event; a heartbeat if nothing comes for a second."""
    return next(event for event in events if event.name != "open")


def test_a_drain_that_is_committed_before_the_hot_window_has_it(
    make_api: MakeApi, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    api, other = make_api(live_heartbeat_seconds=1), make_api()
    store(api, writer, 1)
    with listening(api) as events, listening(other) as other_events:
        (feed,) = api.service.live.feeds()
        feed.busy = True  # polls leave it out
        store(api, writer, 2)
        _, position = take(other_events, 1)
        # As an erasure does: reads use Postgres until the segments have left the hot window.
        redis.set(writer.names.hot_hidden(feed.vault.vault_id.bytes), 1)
        committed, may_write, write = threading.Event(), threading.Event(), HotWindow.write

        def write_late(self: HotWindow, drains: Sequence[DrainedShard]) -> None:
            committed.set()
            may_write.wait(20)
            write(self, drains)

        monkeypatch.setattr(HotWindow, "write", write_late)
        send(api, 3)
        with ThreadPoolExecutor() as pool:
            drain = pool.submit(drain_all, writer)
            try:
                assert committed.wait(20)
                feed.busy = False
                # Postgres has the third reading, but no stream may be ahead of the hot window.
                assert take(events, 1)[0] == ["2"]
                with listening(api, position) as resumed:
                    may_write.set()
                    assert take(resumed, 1)[0] == ["3"]
                    assert take(events, 1)[0] == ["3"]
            finally:
                may_write.set()
            drain.result()


def test_a_compaction_while_a_client_catches_up(
    make_api: MakeApi, cold_writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "PAGE_READINGS", 1)
    monkeypatch.setattr(compaction_planner, "MARGIN_MS", -(10**9))
    monkeypatch.setattr(compaction_planner, "MIN_SEGMENTS", 2)
    api = make_api(live_heartbeat_seconds=1)
    store(api, cold_writer, 1)
    with listening(api) as events:
        position = next(events).id
    for number in range(2, 6):
        store(api, cold_writer, number)
    with listening(api, position) as events:
        assert take(events, 1)[0] == ["2"]
        vault = api.service.vaults.find(PASSWORD.encode(), Client("test"))
        assert vault is not None
        api.service.compaction.look(vault)
        assert cold_writer.compaction.run(cold_writer.postgres())[0] == "merged"
        assert next_event(events).texts == ["3", "4", "5"]


def test_events_that_are_left_out_in_the_last_round_of_catching_up(
    make_api: MakeApi, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MAX_ROUNDS", 1)
    monkeypatch.setattr(listener, "MAX_WAITING_BYTES", 25)
    api = make_api(live_heartbeat_seconds=1)
    live = api.service.live.source
    store(api, writer, 1)
    with listening(api) as events:
        position = next(events).id
    store(api, writer, 2)
    with listening(api, position) as events:
        assert next(events).name == "open"
        (feed,) = api.service.live.feeds()
        for number in (3, 4):
            store(api, writer, number)
            stored = live.now(live.drained())
            wait_until(lambda: feed.offered.includes(stored))  # noqa: B023 - called at once
        assert next_event(events).texts == ["2"]
        assert next_event(events).data.get("skipped") == 2


def test_readings_that_are_stored_while_a_feed_leaves_some_out(
    make_api: MakeApi, cold_writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "MAX_BEHIND_READINGS", 2)
    api = make_api(live_heartbeat_seconds=1)
    store(api, cold_writer, 1)

    def measure_slowly(connection: Connection, search: StoredAfter) -> FoundSize:
        found = measure(connection, search)
        if found.readings == 3:
            store(api, cold_writer, 5)
        return found

    monkeypatch.setattr(source, "measure", measure_slowly)
    with listening(api) as events:
        assert next(events).name == "open"
        store(api, cold_writer, 2, 3, 4)
        assert next_event(events).data["skipped"] == 3
        assert next_event(events).texts == ["5"]
