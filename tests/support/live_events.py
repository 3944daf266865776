"""Server-sent events of a live stream, as a client reads them."""

import http.client
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass
class LiveEvent:
    """One event."""

    name: str
    id: str
    data: dict[str, Any]

    @property
    def ids(self) -> list[int]:
        """The ids of the readings of the event."""
        return [int(reading["id"]) for reading in self.data.get("data", [])]

    @property
    def texts(self) -> list[str]:
        """The texts of the readings of the event."""
        return [reading["freeform"] for reading in self.data.get("data", [])]


def parse_events(pieces: Iterable[bytes]) -> Iterator[LiveEvent]:
    """Parse the bytes of a stream, in pieces of any size."""
    waiting = b""
    for piece in pieces:
        waiting += piece
        *blocks, waiting = waiting.split(b"\n\n")
        for block in blocks:
            lines = [line.partition(": ") for line in block.decode().split("\n")]
            fields = {name: value for name, _, value in lines}
            yield LiveEvent(fields["event"], fields.get("id", ""), json.loads(fields["data"]))


@contextmanager
def live_events(
    port: int, password: str, last_event_id: str = "", **options: Any
) -> Iterator[Iterator[LiveEvent]]:
    """Open a stream of a service on this machine, and yield its events."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {"Content-Type": "application/json"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    body = json.dumps({"data": {"db_password": password, **options}})
    connection.request("POST", "/api/iot/live", body, headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    try:
        yield parse_events(body_pieces(answer))
    finally:
        connection.close()


def body_pieces(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it arrives, until the server ends the body or the connection."""
    with suppress(ConnectionResetError, http.client.IncompleteRead):
        while piece := answer.read1():
            yield piece
