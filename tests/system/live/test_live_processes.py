"""`POST /api/iot/live` of real processes."""

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from integration.api.asking import JSON, row
from support.live_events import LiveEvent, parse_events
from support.stack import Stack

PASSWORD = "live"


@contextmanager
def listening(
    stack: Stack, last_event_id: str = "", *, port: int | None = None
) -> Iterator[Iterator[LiveEvent]]:
    """Open a stream on a new connection, and yield its events."""
    connection = http.client.HTTPConnection("127.0.0.1", port or stack.port, timeout=30)
    headers = {**JSON, **({"Last-Event-ID": last_event_id} if last_event_id else {})}
    body = json.dumps({"data": {"db_password": PASSWORD}})
    connection.request("POST", "/api/iot/live", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    try:
        yield parse_events(_pieces(answer))
    finally:
        connection.close()


def _pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    with suppress(ConnectionResetError, http.client.IncompleteRead):
        while piece := answer.read1():
            yield piece


def send(stack: Stack, *texts: int) -> None:
    """Send readings in one request."""
    assert stack.put([row(PASSWORD, freeform=text) for text in texts]).status == 201


def test_a_reading_arrives_within_a_second_and_a_shutdown_ends_the_stream(stack: Stack) -> None:
    send(stack, 0)
    with listening(stack) as events:
        next(events)
        for text in range(1, 6):
            sent = time.monotonic()
            send(stack, text)
            while str(text) not in next(events).texts:
                pass
            assert time.monotonic() - sent < 1
        assert stack.api is not None
        stack.api.terminate()
        last = list(events)[-1]
        assert (last.name, last.data["code"]) == ("error", "unavailable")
