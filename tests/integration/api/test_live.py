"""`POST /api/iot/live` in this process: events, positions, limits, and where readings come from."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row
from iot_writer.writer import Writer
from support.draining import drain_all
from support.live_events import LiveEvent, parse_events


@contextmanager
def listening(
    api: Api, last_event_id: str = "", *, password: str = PASSWORD, **options: Any
) -> Iterator[Iterator[LiveEvent]]:
    """Open a stream, and yield its events."""
    body = json.dumps({"data": {"db_password": password, **options}})
    headers = {**JSON, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    answer = api.app.test_client().open(
        "/api/iot/live", method="POST", data=body, headers=headers, buffered=False
    )
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/event-stream"
    try:
        yield parse_events(answer.iter_encoded())
    finally:
        answer.close()


def send(api: Api, *texts: int, password: str = PASSWORD) -> None:
    """Send readings."""
    rows = [row(password, freeform=text, interrogator_time=100 - text) for text in texts]
    assert api.put(rows).status_code == 201


def take(events: Iterator[LiveEvent], count: int) -> tuple[list[str], str]:
    """Return the texts of the next readings, and the position behind them."""
    texts: list[str] = []
    while True:
        event = next(events)
        assert event.name in {"open", "readings", "heartbeat"}, event
        texts += event.texts
        if len(texts) >= count:
            assert len(texts) == count
            return texts, event.id


def test_a_reading_arrives_as_reads_return_it(api: Api, writer: Writer) -> None:
    send(api, 1)
    drain_all(writer)
    with listening(api) as events:
        opened = next(events)
        assert opened.name == "open"
        assert opened.id
        assert (
            abs(opened.data["time"] - api.app.extensions["iot"].live.source.seconds_ago(0).since)
            < 5000
        )
        send(api, 2, 3)
        drain_all(writer)
        event = next(events)
        assert event.name == "readings"
        assert event.texts == ["2", "3"]
        stored = {reading["id"]: reading for reading in api.read()}
        assert event.data["data"] == [stored[number] for number in event.ids]


def test_a_resume_misses_and_repeats_nothing(api: Api, writer: Writer) -> None:
    send(api, 0)
    drain_all(writer)
    with listening(api) as events:
        send(api, 1, 2)
        drain_all(writer)
        texts, position = take(events, 2)
    for text in (3, 4):
        send(api, text)
        drain_all(writer)
    with listening(api, position) as events:
        more, position = take(events, 2)
        send(api, 5)
        drain_all(writer)
        last, position = take(events, 1)
    assert texts + more + last == ["1", "2", "3", "4", "5"]
    with listening(api, position) as events:
        send(api, 6)
        drain_all(writer)
        assert take(events, 1)[0] == ["6"]


def test_a_password_without_a_vault_is_answered_404(api: Api) -> None:
    assert_error(api.post("/api/iot/live", "unknown"), 404, "not_found")
