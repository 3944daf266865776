"""`iot-sensor send` sends what the command line or standard input names, and says what failed."""

import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import pytest

from iot_sensor_client import Client, Outbox, OutboxInUseError, outbox
from iot_tools.cli.main import main
from iot_tools.devices import sender
from support.waiting import wait_until

Captured = pytest.CaptureFixture[str]


class Service(Protocol):
    """The interface of the fixture `service`."""

    url: str
    readings: list[dict[str, object]]
    requests: int
    failures: list[tuple[int, dict[str, str]]]

    def take(self, rows: list[dict[str, Any]], key: str) -> tuple[int, dict[str, str]]:
        """Return the status and headers of a PUT."""


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_PASSWORD", "p")


def test_fields_make_one_reading(service: Service, capsys: Captured) -> None:
    began = time.time()
    words = ["temperature=21.5", "unit=C", "open=true", "note=a=b", "tags=[1, 2]"]
    assert main(["send", "--url", service.url, *words]) == 0
    (reading,) = service.readings
    assert reading["freeform"] == {
        "temperature": 21.5, "unit": "C", "open": True, "note": "a=b", "tags": [1, 2],
    }  # fmt: skip
    assert reading["db_password"] == "p"
    assert began * 1e6 - 1 <= int(str(reading["interrogator_time"])) <= time.time() * 1e6
    assert capsys.readouterr().out == f"{service.url}: 1 reading acknowledged\n"


def test_lines_are_readings_or_freeform(
    service: Service, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        '{"x": 1}',
        "",
        '{"freeform": 2, "relative_time": 5, "interrogator_time": 7}',
        '{"freeform": 3, "other": 4}',
        "5",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["send", "--url", service.url, "--time", "9", "--quiet"]) == 0
    sent = [
        (reading["freeform"], reading["interrogator_time"], reading.get("relative_time"))
        for reading in service.readings
    ]
    expected = [({"x": 1}, "9", None), (2, 7, 5), ({"freeform": 3, "other": 4}, "9", None)]
    assert sent == [*expected, (5, "9", None)]
    assert capsys.readouterr().out == ""


def test_a_failed_request_is_sent_again(service: Service) -> None:
    service.failures = [(503, {}), (503, {})]
    assert main(["send", "--url", service.url, "x=1"]) == 0
    assert service.requests == 3
    assert len(service.readings) == 1


def test_an_error_tells_what_was_acknowledged(
    service: Service, capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("iot_tools.devices.sender.BATCH_READINGS", 2)
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n3\nno\n"))
    assert main(["send", "--url", service.url]) == 2
    said = capsys.readouterr().err
    assert said.startswith("line 4 is not JSON")
    assert said.endswith("; 3 readings acknowledged before\n")
    assert [reading["freeform"] for reading in service.readings] == [1, 2, 3]
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n3\nno\n"))
    assert main(["send", "--url", service.url, "--outbox", str(tmp_path / "outbox")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("line 4 is not JSON")
    assert said.endswith("; 3 readings stored in the outbox before\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("4\n"))
    service.failures = [(400, {})]
    assert main(["send", "--url", service.url]) == 1
    assert capsys.readouterr().err.startswith(f"{service.url}: 400")


def test_large_readings_are_sent_in_several_requests(
    service: Service, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request may have 16 MiB. An error counts the readings of the requests before it."""
    texts = [f"{'x' * 600_000}{number}" for number in range(4)]
    take = service.take

    def refuse_last(rows: list[dict[str, Any]], key: str) -> tuple[int, dict[str, str]]:
        return (413, {}) if rows[0]["data"]["freeform"] == texts[3] else take(rows, key)

    monkeypatch.setattr(service, "take", refuse_last)
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f'"{text}"\n' for text in texts)))
    assert main(["send", "--url", service.url]) == 1
    assert [reading["freeform"] for reading in service.readings] == texts[:3]
    said = capsys.readouterr().err
    assert said.startswith(f"{service.url}: 413")
    assert said.endswith("; 3 readings acknowledged before\n")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"x":' * 100_000])
def test_json_that_is_nested_too_deeply_is_refused(
    service: Service, capsys: Captured, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"1\n{text}\n"))
    assert main(["send", "--url", service.url]) == 2
    assert capsys.readouterr().err == (
        "line 2: is nested too deeply; 1 reading acknowledged before\n"
    )
    assert main(["send", "--url", service.url, f"field={text}"]) == 2
    assert capsys.readouterr().err.endswith(": is nested too deeply\n")


def test_no_field_is_no_reading(service: Service, capsys: Captured) -> None:
    assert main(["send", "--url", service.url, "temperature"]) == 2
    assert capsys.readouterr().err == "'temperature' does not have the form FIELD=VALUE\n"
    assert service.requests == 0


def test_a_field_that_would_be_lost_is_refused(service: Service, capsys: Captured) -> None:
    assert main(["send", "--url", service.url, "a=1", "b=2", "a=3"]) == 2
    assert capsys.readouterr().err == "field 'a' is given twice: give it one value\n"
    assert main(["send", "--url", service.url, "c=[-1e400]"]) == 2
    assert capsys.readouterr().err == (
        "'c=[-1e400]': -1e400 is too large: use a number below 1.8e308, or a text\n"
    )
    assert service.requests == 0


def test_lines_may_begin_with_a_byte_order_mark(service: Service) -> None:
    sent = subprocess.run(
        [sys.executable, "-m", "iot_tools", "send", "--url", service.url],
        input=b"\xef\xbb\xbf1\n1e400\n",
        capture_output=True,
        check=False,
    )
    assert sent.returncode == 2
    assert sent.stderr.startswith(b"line 2: 1e400 is too large: use a number")
    assert [reading["freeform"] for reading in service.readings] == [1]


def test_what_is_not_utf_8_is_refused(service: Service, capsys: Captured) -> None:
    assert main(["send", "--url", service.url, "place=caf\udce9"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err
    sent = subprocess.run(
        [sys.executable, "-m", "iot_tools", "send", "--url", service.url],
        input=b'"caf\xc3\xa9"\n"caf\xe9"\n',
        capture_output=True,
        check=False,
    )
    assert (sent.returncode, sent.stderr.decode()) == (
        2, "line 2 is not UTF-8; 1 reading acknowledged before\n",
    )  # fmt: skip
    assert [reading["freeform"] for reading in service.readings] == ["caf\u00e9"]


def test_an_outbox_keeps_readings_until_the_service_is_back(
    service: Service, capsys: Captured, tmp_path: Path
) -> None:
    words = ["--outbox", str(tmp_path / "outbox"), "--wait", "0"]
    assert main(["send", "--url", "http://127.0.0.1:1", *words, "x=1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(
        f"http://127.0.0.1:1: 1 reading not sent yet, kept in {tmp_path / 'outbox'}"
    )
    words[-1] = "30"
    assert main(["send", "--url", service.url, *words, "x=2"]) == 0
    assert [reading["freeform"] for reading in service.readings] == [{"x": 1}, {"x": 2}]
    said = capsys.readouterr().out
    assert said.startswith(f"{service.url}: ")
    assert said.endswith("2 readings acknowledged\n")


def test_an_outbox_waits_until_another_run_has_closed_the_file(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(*arguments: Any, **options: Any) -> Outbox:
        try:
            return Outbox(*arguments, **options)
        except OutboxInUseError:
            other.close()
            raise

    monkeypatch.setattr(sender, "Outbox", opened)
    with Client(service.url, "p") as client, Outbox(client, tmp_path / "outbox") as other:
        words = ["--outbox", str(tmp_path / "outbox"), "x=1"]
        assert main(["send", "--url", service.url, *words]) == 0
    assert [reading["freeform"] for reading in service.readings] == [{"x": 1}]


def test_an_outbox_waits_as_long_as_the_command_says(service: Service, tmp_path: Path) -> None:
    service.failures = [(503, {"Retry-After": "60"})]
    words = ["--outbox", str(tmp_path / "outbox"), "--wait", "0.5"]
    began = time.monotonic()
    assert main(["send", "--url", service.url, *words, "x=1"]) == 0
    assert time.monotonic() - began < 5


def test_lines_of_a_pipe_are_sent_before_its_end(service: Service) -> None:
    command = [sys.executable, "-m", "iot_tools", "send", "--url", service.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as piped:
        assert piped.stdin is not None
        piped.stdin.write("1\n2\n")
        piped.stdin.flush()
        wait_until(lambda: len(service.readings) == 2, what="the first lines")
        piped.stdin.close()
        assert piped.wait(30) == 0


@pytest.mark.parametrize("wait", ["60", "0"])
def test_a_refused_reading_is_reported_once(
    service: Service, capsys: Captured, tmp_path: Path, wait: str
) -> None:
    words = ["send", "--url", service.url, "--outbox", str(tmp_path / "outbox"), "--wait", wait]
    service.failures = [(413, {})]
    assert main([*words, "x=1"]) == 1
    assert "1 reading set aside: " in capsys.readouterr().err
    assert main([*words, "x=2"]) == 0
    assert [reading["freeform"] for reading in service.readings] == [{"x": 2}]


def test_readings_that_are_set_aside_at_once_are_reported(
    service: Service, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["send", "--url", service.url, "--outbox", str(tmp_path / "outbox")]
    service.failures = [(500, {"Retry-After": "60"})]
    assert main([*words, "--wait", "1", "x=1"]) == 0
    assert "1 reading not sent yet" in capsys.readouterr().out

    def opened(*arguments: Any, **options: Any) -> Outbox:
        box = Outbox(*arguments, **options)
        box.flush(20)
        return box

    monkeypatch.setattr(outbox, "KEY_SECONDS", 0)
    monkeypatch.setattr(sender, "Outbox", opened)
    assert main([*words, "x=2"]) == 1
    assert "1 reading set aside: it is not known" in capsys.readouterr().err
    assert [reading["freeform"] for reading in service.readings] == [{"x": 2}]
