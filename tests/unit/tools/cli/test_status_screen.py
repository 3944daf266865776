"""`iot-sensor top` shows the example of the API's description, and what is wrong."""

import io
from copy import deepcopy
from typing import Any

import pytest
from rich.console import Console

from iot_api.description.document import read_document
from iot_tools.cli.main import main
from iot_tools.cli.status_screen import screen
from iot_tools.local.ports import free_port

URL = "http://iot.example.org"


@pytest.fixture
def status() -> dict[str, Any]:
    """The example in the description of `GET /api/status`."""
    call = read_document()["paths"]["/api/status"]["get"]
    example: dict[str, Any] = call["responses"]["200"]["content"]["application/json"]["example"]
    return deepcopy(example)


def shown(status: dict[str, Any] | None, problem: str = "", height: int | None = None) -> str:
    console = Console(file=io.StringIO(), width=100, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(screen(status, URL, problem, height=height))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_a_status_on_one_screen(status: dict[str, Any]) -> None:
    assert shown(status) == (
        "iot-sensor 0.1.0  http://iot.example.org  2025-11-28 10:16:40 UTC\n"
        "stores      redis ok   postgres ok\n"
        "rates       in 1,000 readings/s, 210.0 KiB/s   out 998 readings/s, 11.7 KiB/s   "
        "read 0.0 readings/s\n"
        "backlog     23.7 KiB of 512.0 MiB (0%)   1 entries   oldest 0.0 s   0 held\n"
        "hot window  the last 10 min of 10 min\n"
        "keys        1 (primary)\n"
        "schema      0004\n"
        "\n"
        "process                          heartbeat   readings/s   stored last for shards\n"
        "iot-sensor-writer-1:7   writer     1 s ago          998   0\n"
        "iot-sensor-api-1:9      API        0 s ago        1,000\n"
        "\n"
        "shard   entries   oldest   drained by                   last   hot window\n"
        "    0         1    0.0 s   iot-sensor-writer-1:7   1.5 s ago       10 min\n"
        "\n"
        "1 dead letters: see iot-sensor dead show, replay, drop\n"
        "dead letter       set aside             shard   reason\n"
        "1764320000000-0   2025-11-28 08:53:20       3   the entry can't be decrypted"
    )


def test_a_status_without_redis(status: dict[str, Any]) -> None:
    away = {name: status[name] for name in ("time", "version", "schema")}
    assert "redis away" in shown({**away, "stores": {"redis": "away", "postgres": "ok"}})


def test_a_service_without_writers(status: dict[str, Any]) -> None:
    status["writers"] = []
    status["shards"][0]["drained_by"] = status["shards"][0]["drained_seconds"] = None
    assert "no writer runs" in shown(status)


def test_rejected_puts_are_shown(status: dict[str, Any]) -> None:
    assert "rejected" not in shown(status)
    status["rates"]["puts_rejected"] = 1.25
    assert "rejected 1.2 PUTs/s" in shown(status)


def test_a_failed_request_keeps_the_last_status(status: dict[str, Any]) -> None:
    assert "\nno new status: timed out\n" in shown(status, "timed out")
    assert shown(None, "timed out") == f"iot-sensor  {URL}\nno new status: timed out"


def test_long_tables_fit_a_terminal(status: dict[str, Any]) -> None:
    """The shards whose entries wait longest are shown."""
    (shard,), (letter,) = status["shards"], status["dead_letters"]["oldest"]
    status["shards"] = [
        {**shard, "shard": number, "oldest_seconds": float(number)} for number in range(256)
    ]
    status["dead_letters"] = {"count": 99, "oldest": 20 * [{**letter, "reason": 200 * "x"}]}
    text = shown(status, "timed out", height=30)
    assert len(text.splitlines()) <= 30
    assert "\n  255 " in text
    assert "\n   17 " not in text
    assert "and 251 more" in text
    assert text.count("1764320000000-0") == 5
    assert text.endswith("and 94 more")


def test_text_of_redis_does_not_control_the_terminal(status: dict[str, Any]) -> None:
    status["dead_letters"]["oldest"][0]["reason"] = "\x1b[31m[red]planted"
    status["writers"][0]["name"] = "\x1b[31mwriter"
    status["shards"][0]["drained_by"] = "\x9b31mdrainer"
    for text in ("?[31m[red]planted", "?[31mwriter", "?31mdrainer"):
        assert text in shown(status)


def test_a_service_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert main(["top", "--url", url, "--once"]) == 1
    assert capsys.readouterr().err.startswith(f"{url}: ")
    assert main(["top", "--url", "ftp://x", "--once"]) == 2
