"""The outbox: batches that the service may have stored."""

import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from iot_sensor_client import Client, Outbox, RetryPolicy, outbox, outbox_file
from support.waiting import wait_until
from unit.client.conftest import CLOSE, NOWHERE, QUICK, Received, Server, reading, times


def test_a_batch_of_unknown_fate_is_set_aside_when_its_key_expires(
    server: Server, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [(CLOSE, {})]
    box = Outbox(client, path, retry=RetryPolicy(base_seconds=60, max_pause_seconds=60), linger=0)
    box.send(reading(1))
    wait_until(lambda: box.statistics().state == "waiting", what="a failed attempt")
    box.send(reading(2))
    box.close(timeout=0)
    monkeypatch.setattr(outbox, "KEY_SECONDS", 0)
    with Outbox(client, path) as box:
        assert box.flush(20)
        (rejected,) = box.rejected()
        assert rejected.reading == reading(1)
        assert "not known" in rejected.reason
        box.resend_rejected([rejected])
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[1], [2], [1]]
    assert len({each.headers["idempotency-key"] for each in server.received}) == 3


@pytest.mark.parametrize(
    ("system_hours", "process_hours"),
    [
        pytest.param(30, 0, id="the machine was suspended during the attempt"),
        pytest.param(0, 30, id="the clock was set back by the age of the attempt"),
        pytest.param(-1, 0, id="the clock was set back to before the attempt"),
    ],
)
def test_a_batch_of_unknown_age_is_not_sent_again(
    server: Server,
    client: Client,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    system_hours: int,
    process_hours: int,
) -> None:
    def away(_: Received) -> int:
        system, process = (
            SimpleNamespace(time=lambda: time.time() + system_hours * 3600),
            SimpleNamespace(monotonic=lambda: time.monotonic() + process_hours * 3600),
        )
        monkeypatch.setattr(outbox_file, "time", system)
        monkeypatch.setattr(outbox, "time", process)
        return CLOSE

    server.status_of = away
    with Outbox(client, path, retry=QUICK, linger=0) as box:
        box.send(reading(1))
        assert box.flush(20)
        assert [each.reading for each in box.rejected()] == [reading(1)]
    assert len(server.received) == 1


@pytest.mark.parametrize(("in_doubt", "sent"), [("set_aside", []), ("send", [[1], [2]])])
def test_a_batch_that_may_be_stored_is_not_divided_for_its_size(
    server: Server,
    client: Client,
    path: Path,
    in_doubt: Literal["set_aside", "send"],
    sent: list[list[int]],
) -> None:
    """The parts have new keys, so the service could not tell that it has stored their readings."""
    server.answers = [(CLOSE, {}), (413, {})]
    with Outbox(client, path, retry=QUICK, in_doubt=in_doubt) as box:
        box.send([reading(1), reading(2)])
        assert box.flush(20)
        assert box.statistics().rejected == (0 if sent else 2)
        assert all("not known" in each.reason for each in box.rejected())
    assert [times(each) for each in server.received] == [[1, 2], [1, 2], *sent]


def test_after_a_crash_the_oldest_batch_may_have_been_sent(
    server: Server, client: Client, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy of an open file is what a kill or a power loss leaves."""
    with Client(NOWHERE, "secret") as away:
        box = Outbox(away, path, retry=QUICK, linger=0)
        box.send(reading(1))
        wait_until(lambda: box.statistics().last_error is not None, what="a failed attempt")
        box.send([reading(2), reading(3)])
        crashed = path.with_name("crashed")
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
        box.close(timeout=0)
    unsure = path.with_name("unsure")
    for suffix in ("", "-wal"):
        shutil.copy(f"{crashed}{suffix}", f"{unsure}{suffix}")
    with Outbox(client, crashed) as box:
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[1], [2, 3]]
    monkeypatch.setattr(outbox, "KEY_SECONDS", 0)
    for used, aside in ((unsure, [reading(1)]), (path, [])):
        with Outbox(client, used) as box:
            assert box.flush(20)
            assert [each.reading for each in box.rejected()] == aside
    server.received.clear()
    with Outbox(client, path.with_name("sends"), in_doubt="send", linger=0, retry=QUICK) as box:
        server.answers = [(CLOSE, {})]
        box.send(reading(4))
        assert box.flush(20)
    assert [times(each) for each in server.received] == [[4], [4]]
