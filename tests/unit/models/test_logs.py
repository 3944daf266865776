"""The format of the log: one event per line, whatever is logged."""

import io
import json
import logging
import subprocess
import sys
from typing import Any

import pytest

from iot_models import logs
from iot_models.errors import SettingsError


def logged(form: str, level: int, sentence: str, *arguments: object, **options: Any) -> str:
    """Return what a logger writes in a format."""
    stream = io.StringIO()
    # No logger: pytest would capture the event, and pytest-xdist can't send a lone surrogate.
    error = sys.exc_info() if options.pop("exc_info", False) else None
    record = logging.LogRecord("iot_api.part", level, "", 0, sentence, arguments, error)
    vars(record).update(options.get("extra", {}))
    logs.handler(form, stream).handle(record)
    return stream.getvalue()


def event(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Return an event in JSON. It is one line."""
    text = logged(logs.JSON, *arguments, **options)
    assert text.count("\n") == 1
    decoded: dict[str, Any] = json.loads(text)
    return decoded


def test_an_event_in_json_has_its_fields() -> None:
    fields = {"shard": 3, "duration_ms": 1.5, "vault": ["a"]}
    found = event(logging.WARNING, "a thing of %s", "x\ny", extra=fields)
    assert found.pop("time").endswith(("Z", "+00:00"))
    assert found.pop("process") > 0
    assert found == {
        "level": "WARNING", "logger": "iot_api.part", "message": "a thing of x\ny", **fields,
    }  # fmt: skip


def test_a_traceback_is_a_field() -> None:
    try:
        int("not a number")
    except ValueError:
        found = event(logging.ERROR, "it failed", exc_info=True)
    assert "Traceback" in found["traceback"]
    assert "ValueError: invalid literal" in found["traceback"]


@pytest.mark.parametrize(
    "text",
    ["Gerät", "\udc80 lone", "\x00\x1b[31m", '"quoted"'],
    ids=["letters", "surrogate", "control characters", "quotes"],
)
def test_json_takes_any_text(text: str) -> None:
    assert event(logging.ERROR, "%s", text, extra={"name_of_it": text})["message"] == text


def test_fields_follow_the_sentence_as_text() -> None:
    fields = {"status": 503, "said": "not a\nword"}
    line = logged(logs.TEXT, logging.ERROR, "a request failed", extra=fields)
    assert line.endswith(
        r'ERROR iot_api.part: a request failed status=503 said="not a\nword"' + "\n"
    )


def test_frames_follow_the_line_as_text() -> None:
    text = logged(logs.TEXT, logging.ERROR, "a defect", extra={"traceback": "frame 1\nframe 2"})
    assert text.endswith("a defect\nframe 1\nframe 2\n")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(SettingsError, match="must be text or json"):
        logs.parse_format("xml")


UNCAUGHT = """
import threading, warnings
from iot_models import logs
logs.start("json", "INFO")
def fail(): raise ValueError("in a thread")
thread = threading.Thread(target=fail); thread.start(); thread.join()
warnings.warn("a warning")
raise KeyError("at the end")
"""


def test_errors_that_nothing_catches_are_events() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    thread, warning, end = map(json.loads, done.stderr.splitlines())
    assert thread["message"].startswith("uncaught error in the thread Thread-1")
    assert "ValueError: in a thread" in thread["traceback"]
    assert "a warning" in warning["message"]
    assert end["message"] == "uncaught error in the thread MainThread"
    assert "KeyError: 'at the end'" in end["traceback"]


EXITING = """
import gevent.monkey
if {greenlets}: gevent.monkey.patch_all()
import sys, threading
from iot_models import logs
logs.start("json", "INFO")
thread = threading.Thread(target=sys.exit, args=[1]); thread.start(); thread.join()
"""


@pytest.mark.parametrize("greenlets", [True, False])
def test_an_exit_of_a_thread_writes_nothing(greenlets: bool) -> None:
    code = EXITING.format(greenlets=greenlets)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("form", ["text", "json", "LOUD"])
def test_the_last_line_has_the_format(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.last_line("iot-api", "IOT_SHARDS is wrong", form)
    line = capsys.readouterr().err
    if form == "json":
        found = json.loads(line)
        assert (found["message"], found["logger"]) == ("IOT_SHARDS is wrong", "iot-api")
    else:
        assert line == "iot-api: IOT_SHARDS is wrong\n"


def test_the_pace_counts_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("iot_models.logs.time.monotonic", lambda: now[0])
    pace = logs.EventLimit(2, 10.0)
    assert [pace.admit("a") for _ in range(5)] == [0, 0, None, None, None]
    assert pace.admit("another kind") == 0
    now[0] = 10.0
    assert [pace.admit("a") for _ in range(3)] == [3, 0, None]
    now[0] = 20.0
    assert pace.admit("a") == 1


def test_the_pace_keeps_few_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MAX_PACED", 3)
    pace = logs.EventLimit(1, 10.0)
    for kind in range(100):
        assert pace.admit(kind) == 0
    assert len(vars(pace)["_kinds"]) <= 3
