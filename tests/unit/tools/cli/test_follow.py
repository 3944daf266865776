"""`iot-sensor follow` prints readings, and why it ends."""

import json
from pathlib import Path

import pytest

from iot_tools.cli.main import main
from unit.client.test_live import OPEN, event, reading, scripted


def test_readings_are_printed_as_they_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "password").write_text("p\n", encoding="utf-8")
    with scripted() as service:
        readings = event("readings", {"data": [reading(1), reading(2)]}, "p2")
        service.answers = [(200, OPEN + readings), (400, b'{"error": "enough"}')]
        words = ["follow", "--url", service.url, "--password-file", str(tmp_path / "password")]
        assert main(words) == 1
        told = capsys.readouterr()
        assert [json.loads(line) for line in told.out.splitlines()] == [reading(1), reading(2)]
        assert told.err == f"{service.url}: enough\n"
        assert service.requests[0][2] == {"db_password": "p"}
        service.answers = [(200, OPEN + readings), (400, b'{"error": "enough"}')]
        assert main([*words, "--freeform"]) == 1
        assert capsys.readouterr().out == "1\n2\n"


def test_a_freeform_of_several_lines_is_printed_in_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IOT_PASSWORD", "p")
    with scripted() as service:
        rows = [{**reading(1), "freeform": '{\r\n "a":\n1}'}]
        service.answers = [(200, OPEN + event("readings", {"data": rows}, "p2")), (400, b"{}")]
        main(["follow", "--url", service.url, "--freeform"])
        (line,) = capsys.readouterr().out.splitlines()
        assert json.loads(line) == {"a": 1}
