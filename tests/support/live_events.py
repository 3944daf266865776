"""Server-sent events of a live stream, as a client reads them."""

import json
from collections.abc import Iterable, Iterator
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
