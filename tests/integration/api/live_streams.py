"""Clients of live streams of apps in this process."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from werkzeug.test import TestResponse

from integration.api.asking import JSON, PASSWORD, Api, row
from support.live_events import LiveEvent, parse_events


def open_stream(
    api: Api,
    last_event_id: str = "",
    *,
    password: str = PASSWORD,
    headers: dict[str, str] | None = None,
    environ: dict[str, Any] | None = None,
    **options: Any,
) -> TestResponse:
    """Open a stream. The response has no body yet."""
    body = json.dumps({"data": {"db_password": password, **options}})
    added = {"Last-Event-ID": last_event_id} if last_event_id else {}
    return api.app.test_client().open(
        "/api/iot/live",
        method="POST",
        data=body,
        headers={**JSON, **added, **(headers or {})},
        environ_overrides=environ,
    )


@contextmanager
def listening(api: Api, last_event_id: str = "", **options: Any) -> Iterator[Iterator[LiveEvent]]:
    """Open a stream, and yield its events."""
    answer = open_stream(api, last_event_id, **options)
    assert answer.status_code == 200, answer.text
    assert answer.mimetype == "text/event-stream"
    try:
        yield parse_events(answer.iter_encoded())
    finally:
        answer.close()


def send(api: Api, *texts: int, password: str = PASSWORD) -> None:
    """Send readings. A later one has an earlier interrogator timestamp."""
    rows = [row(password, freeform=text, interrogator_time=-text) for text in texts]
    assert api.put(rows).status_code == 201


def take(events: Iterator[LiveEvent], count: int) -> tuple[list[str], str]:
    """Return the texts of the next readings, and the position behind them."""
    texts: list[str] = []
    position = ""
    while len(texts) < count:
        event = next(events)
        assert event.name in {"open", "readings", "heartbeat"}, event
        texts += event.texts
        position = event.id
    assert len(texts) == count
    return texts, position


def first(events: Iterator[LiveEvent], name: str) -> LiveEvent:
    """Return the next event of a name."""
    return next(event for event in events if event.name == name)
