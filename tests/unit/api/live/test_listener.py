"""The events that wait for a listener are bounded; the excess becomes one summary."""

import threading
import time
from typing import cast

import pytest

from iot_api.limits.clients import Client
from iot_api.live import listener as module
from iot_api.live.events import ReadingsEvent
from iot_api.live.listener import Listener, WaitingBytes
from iot_api.live.position import LivePosition
from iot_cipher.vault import VaultRecord
from iot_models.errors import UnavailableError
from support.waiting import stretched


class Record:
    """The part of a record that a listener uses."""

    class vault_id:  # noqa: N801 -- an attribute of the record
        """The id of the vault."""

        bytes = bytes(16)


def new_listener(waiting: WaitingBytes) -> Listener:
    record = cast("VaultRecord", Record)
    start = LivePosition(0, 0, {})
    return Listener(Client("c"), record, start, lambda: None, lambda: False, waiting)


def event(number: int, size: int = 10) -> ReadingsEvent:
    return ReadingsEvent(b"x" * size, LivePosition(0, 0, {0: number}), 3, 0, number, number + 5)


def test_events_come_in_their_order() -> None:
    waiting = WaitingBytes()
    listener = new_listener(waiting)
    assert listener.take(0) is None
    listener.offer(event(1))
    listener.offer(event(2))
    assert waiting.total == 20
    assert [listener.take(0), listener.take(0), listener.take(0)] == [event(1), event(2), None]
    assert waiting.total == 0


def test_too_many_events_become_one_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 25)
    waiting = WaitingBytes()
    listener = new_listener(waiting)
    for number in range(5):
        listener.offer(event(number))
    assert waiting.total == 0
    assert not listener.is_idle
    summary = listener.take(0)
    assert summary is not None
    assert (summary.readings, summary.skipped, summary.begin, summary.end) == (0, 15, 0, 9)
    assert b'"skipped":15,"from":0,"to":9' in summary.text
    assert summary.position.ids == {0: 4}
    listener.offer(event(9, size=100))
    assert listener.take(0) == event(9, size=100), "a large event alone is not left out"


def test_all_listeners_of_a_process_share_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ALL_WAITING_BYTES", 35)
    waiting = WaitingBytes()
    one, two = new_listener(waiting), new_listener(waiting)
    for number in range(2):
        one.offer(event(number))
        two.offer(event(number))
    assert waiting.total == 20
    summary = two.take(0)
    assert summary is not None
    assert summary.skipped == 6
    assert one.take(0) == event(0)


def test_the_end_wakes_a_listener_and_drops_what_waits() -> None:
    waiting = WaitingBytes()
    listener = new_listener(waiting)
    listener.offer(event(1))
    listener.end(UnavailableError("over"))
    listener.offer(event(2))
    assert waiting.total == 0
    with pytest.raises(UnavailableError, match="over"):
        listener.take(0)
    quiet = new_listener(waiting)
    timer = threading.Timer(0.05, lambda: quiet.end(UnavailableError("over")))
    timer.start()
    began = time.monotonic()
    with pytest.raises(UnavailableError, match="over"):
        quiet.take(30)
    assert time.monotonic() - began < stretched(10)
    timer.join()
