"""`Client.follow` on a live stream: resumes, summaries, and services without live streams."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from iot_sensor_client import Client, RejectedError, RetryableError, RetryPolicy, stopwatch
from support.serving import serving

ONCE = RetryPolicy(max_attempts=1)


def reading(number: int, received: str = "2200-01-01 10:00:00") -> dict[str, Any]:
    return {"id": number, "absolute_timestamp": received, "freeform": str(number)}


def hence(minutes: int) -> str:
    return f"{datetime.now(UTC) + timedelta(minutes=minutes):%F %T}"


def page(*rows: dict[str, Any], **more: str) -> tuple[int, bytes]:
    return 200, json.dumps({"data": rows} | more).encode()


def event(name: str, data: object, event_id: str = "") -> bytes:
    head = f"event: {name}\n" + (f"id: {event_id}\n" if event_id else "")
    return f"{head}data: {json.dumps(data)}\n\n".encode()


BROKEN_OFF = (200, b'{"data": [')
DAMAGED = (500, b'{"error": "a segment is damaged", "code": "damaged"}')
OPEN = event("open", {"time": 0, "heartbeat": 15}, "p0")
_READ_OF_MISSED = re.compile(r"[?]by=received&from=-([0-9]+)&limit=")
"""A read from before the time of `OPEN`."""


class Scripted:
    """A service that answers requests with given statuses and bodies, in turn."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        """Path, Last-Event-ID and the data of the body."""
        self.missed = page()
        """Answer to the read of what was received before a stream began. `requests` lacks it."""
        self.reads_of_missed: list[int] = []
        """The time from which they read, as milliseconds before the stream began."""
        self.ahead = 0.0
        """Seconds by which its clock is ahead of the clock of this machine."""
        self.holds = False
        """Keep each stream open, not only the last one."""
        self.release = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                last = self.headers.get("Last-Event-ID", "")
                if missed := _READ_OF_MISSED.search(self.path):
                    scripted.reads_of_missed.append(int(missed[1]))
                    status, content = scripted.missed
                else:
                    scripted.requests.append((self.path, last, body["data"]))
                    status, content = scripted.answers.pop(0) if scripted.answers else (200, OPEN)
                self.send_response(status)
                if content.startswith(b"event"):
                    self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                if content == BROKEN_OFF[1]:
                    self.send_header("Content-Length", str(len(content) + 1))
                self.end_headers()
                self.wfile.write(content)
                self.wfile.flush()
                held = scripted.holds or not scripted.answers
                if held and status == 200 and content.startswith(b"event"):
                    scripted.release.wait(30)

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string((timestamp or time.time()) + scripted.ahead)

            def log_message(self, *_: object) -> None:
                """Keep the output of the tests clean."""

        return Handler


def suspend(service: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an hour pass on the clock that goes on while the machine is suspended."""
    service.ahead = 3600
    monkeypatch.setattr(stopwatch, "_now", lambda: time.monotonic() + 3600)


@contextmanager
def scripted() -> Iterator[Scripted]:
    service = Scripted()
    with serving(service.http):
        try:
            yield service
        finally:
            service.release.set()


def test_a_cut_stream_is_resumed_behind_its_last_event() -> None:
    with scripted() as service, Client(service.url, "p") as client:
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(1), reading(2)]}, "p2") + b"event: "),
            (503, b"{}"),
            (200, OPEN + event("heartbeat", {"time": 1}, "p3")
             + event("error", {"error": "ends", "code": "unavailable"})),
            (200, OPEN + event("readings", {"data": [reading(4)]}, "p4")),
        ]  # fmt: skip
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(3)] == [1, 2, 4]
        assert [last for _, last, _ in service.requests] == ["", "p2", "p2", "p3"]


def test_what_was_stored_before_the_stream_began_is_read() -> None:
    with scripted() as service, Client(service.url, "p") as client:
        service.missed = page(reading(2), reading(1))
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(2), reading(3)]}, "p3")),
            (200, OPEN + event("readings", {"data": [reading(4), reading(5)]}, "p5")),
        ]
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(4)] == [1, 2, 3, 4]
        assert len(service.reads_of_missed) == 1


def test_readings_of_a_vault_that_replaces_an_erased_one_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with scripted() as service, Client(service.url, "p") as client:
        refused = b'{"error": "of no live stream", "field": "Last-Event-ID"}'
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(1)]}, "p1")), (400, refused),
            (200, OPEN + event("readings", {"data": [reading(3)]}, "p3")),
        ]  # fmt: skip
        live = client.follow(interval=0.01)
        assert next(live)["id"] == 1
        suspend(service, monkeypatch)
        service.missed = page(reading(2))
        assert next(live)["id"] == 2
        assert service.reads_of_missed[1] > 3_600_000


@pytest.mark.parametrize("error", [KeyError("token"), ValueError("token"), OSError("token")])
def test_an_error_of_the_token_function_is_raised(error: Exception) -> None:
    calls: list[str] = []

    def token() -> str:
        calls.append("token")
        if len(calls) == 1:
            return "token"
        raise error

    with scripted() as service, Client(service.url, "p", token) as client:
        with pytest.raises(type(error), match="token"):
            next(client.follow(interval=0.01))
        assert len(calls) == 2


def test_what_the_stream_left_out_is_read() -> None:
    with scripted() as service, Client(service.url, "p") as client:
        service.answers = [
            (200, OPEN + event("readings", {"data": [reading(1)]}, "p1")
             + event("summary", {"skipped": 2, "from": 1000, "to": 2000}, "p3")),
            (200, json.dumps({"data": [reading(3), reading(1), reading(2)]}).encode()),
            (200, OPEN + event("readings", {"data": [reading(4)]}, "p4")),
        ]  # fmt: skip
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(4)] == [1, 2, 3, 4]
        assert "from=1000&to=2001" in service.requests[1][0]


def test_a_page_that_fails_is_read_again() -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [
            (200, OPEN + event("summary", {"skipped": 2, "from": 1000, "to": 2000}, "p2")),
            (200, json.dumps({"data": [reading(1)], "cursor": "c"}).encode()),
            (503, b"{}"),
            (200, json.dumps({"data": [reading(2)]}).encode()),
            (200, OPEN + event("readings", {"data": [reading(3)]}, "p3")),
        ]  # fmt: skip
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(3)] == [1, 2, 3]
        pages = [path for path, _, _ in service.requests if path.startswith("/api/iot?")]
        assert ["cursor=c" in path for path in pages] == [False, True, True]


def test_a_stream_continues_after_damaged_readings(caplog: pytest.LogCaptureFixture) -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [
            (200, OPEN + event("summary", {"skipped": 2, "from": 1000, "to": 2000}, "p2")),
            BROKEN_OFF,
            (200, json.dumps({"data": [reading(1)], "cursor": "c"}).encode()),
            BROKEN_OFF, BROKEN_OFF, DAMAGED,
            (200, OPEN + event("readings", {"data": [reading(3)]}, "p3")),
        ]  # fmt: skip
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(2)] == [1, 3]
        assert [last for path, last, _ in service.requests if path == "/api/iot/live"] == ["", "p2"]
        pages = [path for path, _, _ in service.requests if path.startswith("/api/iot?")]
        limits = [int(page.split("limit=")[1].split("&")[0]) for page in pages]
        assert limits == [10_000, 1000, 1000, 100, 10]
        assert ["cursor=c" in page for page in pages] == [False, False, True, True, True]
    assert "00:00:01+00:00 to 1970-01-01 00:00:02.001000+00:00 may be missing" in caplog.text


def test_a_poll_does_not_reach_back_to_damaged_readings(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [(405, b"{}"), page(), page(reading(1, hence(0)))]
        live = client.follow(interval=0.01, overlap=5)
        assert next(live)["id"] == 1
        suspend(service, monkeypatch)
        late = reading(2, hence(30))
        last = page(late, reading(3, hence(60)))
        service.answers = [page(late, cursor="c"), BROKEN_OFF, DAMAGED, last]
        assert [next(live)["id"] for _ in range(2)] == [2, 3]
        seconds = [int(path.split("/")[-1].split("?")[0]) for path, _, _ in service.requests[3:]]
        assert all(each > 3600 for each in seconds[:3])
        assert seconds[3] < 60
    assert f"to {hence(60)[:13]}" in caplog.text


def test_a_poll_after_a_suspend_returns_all_new_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [(405, b"{}"), page(), page(reading(2, hence(0)))]
        live = client.follow(interval=0.01)
        assert next(live)["id"] == 2
        suspend(service, monkeypatch)
        service.answers = [page(reading(3, hence(30)))]
        assert next(live)["id"] == 3
        assert int(service.requests[-1][0].split("/")[-1].split("?")[0]) > 3600


@pytest.mark.parametrize(
    "answer",
    [
        (400, b'{"error": "start: must be an integer", "field": "start"}'),
        (404, b"not here"),
        (405, b"{}"),
        (429, b'{"error": "too many", "reason": "live_streams"}'),
    ],
)
def test_a_service_without_a_live_stream_is_polled(answer: tuple[int, bytes]) -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [answer, page(), page(reading(1))]
        assert next(client.follow(interval=0.01))["id"] == 1
        assert service.requests[1][0].startswith("/api/iot/seconds/")


def test_what_was_received_before_the_first_poll_is_new() -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        both = page(reading(1, hence(-1)), reading(2))
        service.answers = [(405, b"{}"), both, both, page(reading(3))]
        assert next(client.follow(interval=0.01))["id"] == 2


def test_polling_ends_when_a_stream_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iot_sensor_client.live._POLLING_SECONDS", 0)
    full = (429, b'{"error": "too many", "reason": "live_streams"}')
    polls = [
        (200, json.dumps({"data": [reading(n + 1) for n in range(m)]}).encode()) for m in range(4)
    ]
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [
            full, polls[0],
            polls[1], full,
            polls[2], (200, OPEN + event("readings", {"data": [reading(3), reading(4)]}, "p4")),
            polls[3],
            (200, OPEN + event("readings", {"data": [reading(5)]}, "p5")),
        ]  # fmt: skip
        service.holds = False
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(5)] == [1, 2, 3, 4, 5]
        streams = [(last, data) for path, last, data in service.requests if path == "/api/iot/live"]
        assert streams == [("", {"db_password": "p"})] * 3 + [("p4", {"db_password": "p"})]
        assert service.reads_of_missed == []


def test_a_stream_that_ends_before_its_first_event_is_polled_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("iot_sensor_client.live._POLLING_SECONDS", 0)
    full = (429, b'{"error": "too many", "reason": "live_streams"}')
    polls = [
        (200, json.dumps({"data": [reading(n + 1) for n in range(m)]}).encode()) for m in range(3)
    ]
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [full, polls[0], polls[0], (200, b"event:"), polls[1], full, polls[2]]
        live = client.follow(interval=0.01)
        assert [next(live)["id"] for _ in range(2)] == [1, 2]


def test_a_password_without_a_vault_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    began, clock = time.monotonic(), time.time
    # The system's clock is set forward, again and again.
    monkeypatch.setattr(time, "time", lambda: clock() + 1e4 * (time.monotonic() - began))
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        unknown = (404, b'{"error": "no vault", "code": "not_found", "field": "db_password"}')
        service.answers = [
            unknown, (200, OPEN + event("readings", {"data": [reading(1)]}, "p1")),
        ]  # fmt: skip
        assert next(client.follow(interval=0.01))["id"] == 1
        assert 1000 < service.reads_of_missed[0] < 1_000_000


class Pauses(threading.Event):
    """An event that is never set. Waits end at once; `seconds` has their timeouts."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        return False


def test_a_suspend_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = Pauses()
    clock = lambda: time.monotonic() + 3600 * len(pauses.seconds)  # noqa: E731 -- a clock
    monkeypatch.setattr(stopwatch, "_now", clock)
    with scripted() as service, Client(service.url, "p") as client:
        found = (200, OPEN + event("readings", {"data": [reading(1)]}, "p1"))
        service.answers = [(503, b"{}"), (503, b"{}"), found]
        assert next(client.follow(interval=0.01, stop=pauses))["id"] == 1


def test_a_password_without_a_vault_is_asked_for_less_and_less_often(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = Pauses()
    clock = lambda: time.monotonic() + sum(each or 0 for each in pauses.seconds)  # noqa: E731
    monkeypatch.setattr(stopwatch, "_now", clock)
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        unknown = (404, b'{"error": "no vault", "code": "not_found", "field": "db_password"}')
        found = (200, OPEN + event("readings", {"data": [reading(1)]}, "p1"))
        service.answers = [*[unknown] * 6, (503, b"busy"), found]
        assert next(client.follow(interval=0.01, stop=pauses))["id"] == 1
        assert service.reads_of_missed[0] > 35_000
    assert pauses.seconds[:6] == [1, 2, 4, 8, 10, 10]
    assert [record.getMessage() for record in caplog.records] == [
        "no vault has this password: follow waits for its first reading",
        "follow waits for the service: 503 busy",
    ]


def test_a_refusal_is_raised() -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [(503, b"{}"), (401, b"{}"), (413, b"{}")]
        for expected in (RetryableError, RetryableError, RejectedError):
            with pytest.raises(expected):
                next(client.follow(interval=0.01))


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_page_of_another_server_is_no_stream(status: int) -> None:
    with scripted() as service, Client(service.url, "p", retry=ONCE) as client:
        service.answers = [(status, b"<html>Please log in</html>")]
        with pytest.raises(RetryableError, match="not from iot-sensor"):
            next(client.follow(interval=0.01))


def test_stop_ends_a_quiet_stream() -> None:
    stop = threading.Event()
    with scripted() as service, Client(service.url, "p") as client:
        live = client.follow(stop=stop)
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        assert list(live) == []
        timer.join()
