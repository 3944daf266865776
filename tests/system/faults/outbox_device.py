"""A device with an outbox: a process that may be killed at any moment and continues when restarted.

Its journal says what it knows: which readings it gave to the outbox (`begun`), which the outbox
accepted (`kept`), and when the outbox was full (`full`).
"""

import argparse
import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from iot_sensor_client import Client, Outbox, OutboxFullError, RetryPolicy
from system.faults.account import Request
from system.faults.readings import body

BEGUN, KEPT, FULL = "begun", "kept", "full"
_FLUSH_SECONDS = 60.0
_PAUSE_SECONDS = 0.05
_FULL_PAUSE_SECONDS = 0.1
_SIZES = ((1, 4), (1, 4), (10, 60), (60, 400))


def password(device: int) -> str:
    """Return the password of a device."""
    return f"outbox-{device}"


def journal_requests(device: int, journal: Path) -> list[Request]:
    """Return what a device gave to its outbox. What the outbox accepted counts as acknowledged."""
    requests: dict[int, Request] = {}
    for word, first, count in _entries(journal):
        if word == BEGUN:
            request = Request(device, first, count, (device,), 0.0)
            requests.setdefault(first, request)
        elif word == KEPT:
            requests[first].status = 201
    return list(requests.values())


def times_full(journal: Path) -> int:
    """Return how often the outbox of a device was full."""
    return sum(word == FULL for word, _, _ in _entries(journal))


def _entries(journal: Path) -> list[tuple[str, int, int]]:
    lines = journal.read_text().splitlines() if journal.exists() else []
    return [
        (word, int(first), int(count)) for word, first, count in (line.split() for line in lines)
    ]


class OutboxDevice:
    """Sends numbered readings through an outbox until SIGTERM, then flushes."""

    def __init__(self, number: int, port: int, path: Path, journal: Path) -> None:
        self._stopping = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        requests = journal_requests(number, journal)
        self._number = number
        self._next = requests[-1].first + requests[-1].count if requests else 0
        self._random = random.Random(f"outbox device {number} {self._next}")
        self._journal = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        client = Client(f"http://127.0.0.1:{port}", password(number), timeout=3.0)
        self._outbox = Outbox(
            client,
            path,
            batch_size=200,
            linger=0.02,
            interval=0.0,
            retry=RetryPolicy(max_pause_seconds=1.0),
        )

    def run(self) -> int:
        """Return 0 if everything was acknowledged."""
        while not self._stopping.wait(_PAUSE_SECONDS):
            count = self._random.randint(*self._random.choice(_SIZES))
            readings = _readings(self._number, self._next, count)
            self._note(BEGUN, count)
            while not self._keep(readings):
                self._note(FULL, count)
                time.sleep(_FULL_PAUSE_SECONDS)
            self._note(KEPT, count)
            self._next += count
        self._outbox.flush(_FLUSH_SECONDS)
        state = self._outbox.statistics()
        print(state, flush=True)
        self._outbox.close()
        return int(bool(state.waiting or state.rejected))

    def _keep(self, readings: Sequence[dict[str, Any]]) -> bool:
        try:
            self._outbox.send(readings)
        except OutboxFullError:
            return False
        return True

    def _note(self, word: str, count: int) -> None:
        os.write(self._journal, f"{word} {self._next} {count}\n".encode())


def _readings(device: int, first: int, count: int) -> list[dict[str, Any]]:
    rows = json.loads(body(device, first, count, [""]))
    return [
        {
            name: value
            for name, value in cast("dict[str, Any]", row["data"]).items()
            if name != "db_password"
        }
        for row in rows
    ]


def main() -> int:
    """Run a device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", type=int)
    parser.add_argument("port", type=int)
    parser.add_argument("outbox", type=Path)
    parser.add_argument("journal", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(process)d %(message)s")
    return OutboxDevice(given.number, given.port, given.outbox, given.journal).run()


if __name__ == "__main__":
    sys.exit(main())
