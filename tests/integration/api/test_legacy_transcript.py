"""Existing clients work unchanged: a recording of the old server is replayed.

The recording holds 60 PUTs of the old clients, then reads, the last one with a wrong password. The
SQLite file of the old server is stored beside the recording.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.api.asking import Api
from iot_writer.writer import Writer
from support.draining import drain_all
from support.stack import Stack
from support.waiting import wait_until

LEGACY = Path(__file__).parents[2] / "fixtures" / "legacy"


@dataclass(frozen=True)
class Exchange:
    """A request and the answer of the old server."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: str
    status: int
    response: str

    @property
    def wrong_password(self) -> bool:
        return '"wrong"' in self.body


Send = Callable[[Exchange], tuple[int, str, bytes]]
"""A function that sends a request and returns status, media type and body."""

_LINES = (LEGACY / "transcript.jsonl").read_text(encoding="utf-8").splitlines()
TRANSCRIPT = [Exchange(**json.loads(line)) for line in _LINES]
PUTS = [each for each in TRANSCRIPT if each.method == "PUT"]
READS = [each for each in TRANSCRIPT if each.method != "PUT"]
READINGS = 65


def comparable(body: str | bytes) -> dict[str, Any]:
    """Return an answer without the parts that may differ.

    Ids become their ranks, because only their order is equal. Absolute timestamps and white space
    within `freeform` are removed.
    """
    answer: dict[str, Any] = json.loads(body)
    rows = answer.get("data", [])
    ranks = {number: rank for rank, number in enumerate(sorted(_ids(rows)))}
    for row in rows:
        if "id" in row:
            row["id"] = ranks[row["id"]]
            row["freeform"] = "".join(row["freeform"].split())
            assert len(row.pop("absolute_timestamp")) == len("2026-11-23 06:17:28")
    return answer


def _ids(rows: list[dict[str, Any]]) -> list[int]:
    ids = [row["id"] for row in rows if "id" in row]
    assert len(set(ids)) == len(ids)
    return ids


def replay_puts(send: Send) -> None:
    for each in PUTS:
        status, media_type, body = send(each)
        assert (status, media_type) == (each.status, "application/json")
        assert body.decode() == each.response


def replay_reads(send: Send) -> None:
    for each in READS:
        status, media_type, body = send(each)
        assert media_type == "application/json"
        if each.wrong_password:
            assert (status, json.loads(body)) == (200, {"data": []})
        else:
            assert status == each.status
            assert comparable(body) == comparable(each.response), each.path


def test_the_recording_is_complete() -> None:
    """An empty replay would pass, too."""
    assert (len(PUTS), len(READS)) == (60, 10)
    assert [each.status for each in READS] == [200] * 9 + [500]
    assert READS[-1].wrong_password
    assert len(json.loads(READS[3].response)["data"]) == READINGS
    assert json.loads(READS[-2].response) == {"data": []}
    with sqlite3.connect(LEGACY / "encpassword.db") as database:
        assert database.execute("SELECT count(*) FROM IOTD").fetchall() == [(READINGS,)]
    database.close()


def test_replay_in_this_process(api: Api, writer: Writer) -> None:
    def send(each: Exchange) -> tuple[int, str, bytes]:
        answer = api.ask(each.method, each.path, each.body, each.headers)
        return answer.status_code, answer.mimetype or "none", answer.data

    replay_puts(send)
    drain_all(writer)
    replay_reads(send)


def test_replay_against_processes(stack: Stack) -> None:
    def send(each: Exchange) -> tuple[int, str, bytes]:
        answer = stack.request(each.method, each.path, each.body.encode(), each.headers)
        return answer.status, answer.headers.get_content_type(), answer.body

    replay_puts(send)
    wait_until(lambda: len(stack.read("encpassword")) == READINGS, what="all readings")
    replay_reads(send)


@pytest.mark.parametrize("prefix", ["/api/iot", "/api/rssi"])
def test_waiting_readings_read_the_same_from_hot_window_and_history(
    api: Api, writer: Writer, prefix: str
) -> None:
    for each in PUTS:
        api.ask(each.method, each.path, each.body, each.headers)
    drain_all(writer)
    hot = api.post(f"{prefix}/seconds/3600", "encpassword")
    everything = api.post(prefix, "encpassword")
    assert hot.data == everything.data
