"""`iot-sensor soak` detects every fault of a faulty service."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import Any

import pytest

from iot_sensor_client import Client
from iot_tools.checks import soak
from iot_tools.checks.soak_device import Account, SoakDevice
from iot_tools.cli.main import main
from support.serving import QuietHandler, serving

Row = dict[str, Any]
READINGS = 5


class Service:
    """A service that stores readings and passes its answers through `lie`."""

    def __init__(self, lie: Callable[[list[Row]], list[Row]]) -> None:
        self.lie = lie
        self.rows: dict[str, Row] = {}
        self.statuses: list[int] = []
        """Statuses of the next answers; 0 closes the connection without an answer."""
        self.after: list[float] = []
        """Delays of the next answers, in seconds."""


class QuietServer(ThreadingHTTPServer):
    """A server that prints no traceback when the client closed the connection."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore the error."""


@contextmanager
def running(lie: Callable[[list[Row]], list[Row]] = list) -> Iterator[tuple[Service, str]]:
    """Run a service and yield the service and its URL."""
    service = Service(lie)

    class Handler(QuietHandler):
        def _any(self) -> None:
            body = json.loads(self.body())["data"]
            if service.after:
                time.sleep(service.after.pop(0))
            status = service.statuses.pop(0) if service.statuses else 200
            if status == 0:
                self.close_connection = True
                return
            answer: Any = {}
            if self.command == "POST":
                answer = {"data": service.lie(list(service.rows.values()))}
            elif status == 200:
                status = 201
                service.rows[self.headers["Idempotency-Key"]] = {
                    "relative_timestamp": body["relative_time"],
                    "interrogator_timestamp": body["interrogator_time"],
                    "freeform": json.dumps(body["freeform"]),
                }
            self.answer(status, json.dumps(answer).encode())

        do_PUT = do_POST = _any  # noqa: N815 -- the names http.server calls

    server = QuietServer(("127.0.0.1", 0), Handler)
    with serving(server):
        yield service, f"http://127.0.0.1:{server.server_port}"


def soaked(url: str, *, timeout: float = 5) -> Account:
    """Return the account of a device that sent some readings."""
    device = SoakDevice("device", "password", Client(url, timeout=timeout), rate=1000)
    stop = threading.Event()
    thread = threading.Thread(target=device.run, args=(stop,), kwargs={"settle": 5})
    thread.start()
    while len(device.account.acknowledged) < READINGS and thread.is_alive():
        time.sleep(0.001)
    stop.set()
    thread.join()
    device.verify(time.monotonic() + 0.5)
    return device.account


def well(account: Account) -> bool:
    return bool(soak.make_report([account], seconds=1, strict=True)["well"])


def altered(name: str, value: object) -> Callable[[list[Row]], list[Row]]:
    return lambda rows: [{**rows[0], name: value}, *rows[1:]]


def test_a_correct_service_passes() -> None:
    with running() as (_, url):
        account = soaked(url)
    assert well(account)
    assert len(account.acknowledged) == account.sent
    assert account.slowest > 0


@pytest.mark.parametrize(
    ("lie", "found"),
    [
        (lambda rows: rows[1:], "lost"),
        (lambda rows: [*rows, rows[0]], "doubled"),
        (altered("freeform", '"other"'), "strange"),
        (altered("interrogator_timestamp", 7_000), "strange"),
        (
            lambda rows: [*rows, {**rows[0], "relative_timestamp": 9_999_999}],
            "strange",
        ),
    ],
)
def test_a_wrong_answer_is_detected(lie: Callable[[list[Row]], list[Row]], found: str) -> None:
    with running(lie) as (_, url):
        account = soaked(url)
    assert getattr(account, found) == 1
    assert not well(account)


@pytest.mark.parametrize(
    ("status", "counted"),
    [(0, "failed"), (500, "failed"), (401, "failed"), (503, "refused"), (429, "refused")],
)
def test_each_failed_request_is_counted_and_reported_once(status: int, counted: str) -> None:
    with running() as (service, url):
        service.statuses = [status]
        account = soaked(url)
    assert getattr(account, counted) == 1
    assert account.failed + account.refused == 1
    assert account.lost == account.doubled == 0
    assert not well(account)
    (told,) = account.failures
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} device: PUT /api/iot: \S+", told)


def test_an_answer_after_the_timeout_is_a_failure() -> None:
    with running() as (service, url):
        service.after = [2]
        account = soaked(url, timeout=0.2)
    assert account.failed == 1
    assert account.doubled == 0


def test_the_devices_stop_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output may be a pipe whose reader has exited."""
    stops = []

    def wait(_: SoakDevice, stop: threading.Event, *, settle: float) -> None:
        stops.append(stop)
        stop.wait(settle)

    def fail(_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(SoakDevice, "run", wait)
    monkeypatch.setattr("iot_tools.checks.soak._print", fail)
    with running() as (_, url), pytest.raises(BrokenPipeError):
        soak.run(soak.Soak(url=url, password="p", settle=10))
    assert len(stops) == 4
    assert all(stop.is_set() for stop in stops)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--url", "ftp://x"], "--url: the URL must have the form http(s)://host[:port][/path]\n"),
        (["--url", "http://x", "--devices", "0"], "--devices must be at least 1"),
        (["--url", "http://x", "--rate", "nan"], "--rate must be above 0"),
        (["--url", "http://x", "--until", "/"], "--until / can't be read: Is a directory\n"),
    ],
)
def test_invalid_arguments_are_refused(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["soak", *options]) == 2
    assert sentence in capsys.readouterr().err
