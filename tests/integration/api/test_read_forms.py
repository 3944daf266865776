"""Reads as NDJSON and CSV, and compressed."""

import csv
import gzip
import io
import json
from collections.abc import Callable

import pytest
import zstandard

from integration.api.asking import JSON, PASSWORD, Api, Row, row
from iot_api.query import responses
from iot_writer.writer import Writer
from support.draining import drain_all
from support.stack import Stack

BODY = json.dumps({"data": {"db_password": PASSWORD}})
COLUMNS = ["id", "absolute_timestamp", "relative_timestamp", "interrogator_timestamp", "freeform"]
TEXTS = [
    {"rssi": -61.5, "note": 'a "quoted", text\r\n'},
    "=1+1",
    "ü\\",
    None,
    float("nan"),
    "long " + '"x\n' * 1000,
]


@pytest.fixture(scope="module")
def filled(module_api: Api, module_writer: Writer) -> Api:
    module_api.put(
        [row(freeform=TEXTS[n % len(TEXTS)], interrogator_time=n * 1000) for n in range(60)]
    )
    drain_all(module_writer)
    return module_api


@pytest.fixture(params=[0, 10**6], ids=["streamed", "whole"])
def whole_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long texts are encoded in parts; with 0, every response is streamed."""
    monkeypatch.setattr(responses, "WHOLE_BYTES", request.param)
    monkeypatch.setattr(responses, "CUT_CHARACTERS", 500)
    monkeypatch.setattr(responses, "CHUNK", 7)
    monkeypatch.setattr(responses, "RUN_CHUNK", 7)


def ask(api: Api, path: str = "/api/iot", **headers: str) -> tuple[str | None, bytes]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = api.ask("POST", path, BODY, {**JSON, **named})
    assert answer.status_code == 200
    assert "Accept, Accept-Encoding" in answer.headers.getlist("Vary")
    return answer.headers.get("Content-Encoding"), answer.data


@pytest.mark.usefixtures("whole_bytes")
def test_ndjson_has_a_reading_a_line(filled: Api) -> None:
    _, body = ask(filled, Accept="application/x-ndjson")
    assert [json.loads(line) for line in body.splitlines()] == filled.read()
    assert ask(filled, Accept="application/jsonl")[1] == body
    assert body.endswith(b"\n")


def test_the_last_line_of_an_ndjson_page_is_the_cursor(filled: Api) -> None:
    lines: list[Row] = []
    asked = "limit=25"
    while asked:
        _, body = ask(filled, f"/api/iot?{asked}", Accept="application/x-ndjson")
        *page, last = map(json.loads, body.splitlines())
        lines += page
        assert list(last) == ["cursor"]
        asked = last["cursor"] and f"limit=25&cursor={last['cursor']}"
    assert lines == filled.read()


@pytest.mark.usefixtures("whole_bytes")
def test_csv_has_a_header_and_the_text_of_freeform(filled: Api) -> None:
    _, body = ask(filled, Accept="text/csv")
    header, *lines = csv.reader(io.StringIO(body.decode("ascii"), newline=""))
    assert header == COLUMNS
    assert lines == [[str(each[name]) for name in COLUMNS] for each in filled.read()]


def test_empty_reads_have_the_form_too(filled: Api) -> None:
    path = "/api/iot/10/10"
    assert ask(filled, path, Accept="text/csv")[1] == (",".join(COLUMNS) + "\r\n").encode()
    assert ask(filled, path, Accept="application/x-ndjson")[1] == b""
    header = filled.ask("POST", "/api/iot", b'{"data":{}}', {**JSON, "Accept": "text/csv"})
    assert header.data == (",".join(COLUMNS) + "\r\n").encode()


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "text/html,*/*;q=0.8", "image/png", "", "text/csv;q=0"]
)
def test_json_is_the_default(filled: Api, accept: str) -> None:
    assert ask(filled, Accept=accept) == (None, filled.post("/api/iot").data)


DECODE: dict[str | None, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
    None: bytes,
}


@pytest.mark.usefixtures("whole_bytes")
@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"), ("zstd;q=0, gzip", "gzip"), ("x-gzip", "gzip"),
        ("identity, gzip;q=0.5", None), ("br", None), ("*", None), ("gzip;q=0", None), ("", None),
    ],
)  # fmt: skip
def test_a_response_is_compressed_as_the_client_accepts(
    filled: Api, accepted: str, coding: str | None
) -> None:
    for accept in ("application/json", "text/csv"):
        _, plain = ask(filled, Accept=accept)
        found, body = ask(filled, Accept=accept, Accept_Encoding=accepted)
        assert found == coding
        assert DECODE[found](body) == plain
        assert (len(body) < len(plain)) == (coding is not None)


def test_a_short_response_is_not_compressed(filled: Api) -> None:
    assert ask(filled, "/api/iot/10/10", Accept_Encoding="gzip") == (None, b'{"data":[]}\n')


def test_processes_stream_compressed(module_stack: Stack) -> None:
    rows = [row("streamed", freeform={"n": n, "text": f"{n * n}" * 20}) for n in range(4000)]
    sent = module_stack.request("PUT", "/api/iot?ack=stored", json.dumps(rows), JSON)
    assert sent.status == 201
    body = json.dumps({"data": {"db_password": "streamed"}})
    plain = module_stack.request("POST", "/api/iot", body, JSON).body
    answer = module_stack.request("POST", "/api/iot", body, {**JSON, "Accept-Encoding": "gzip"})
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert gzip.decompress(answer.body) == plain
    assert len(json.loads(plain)["data"]) == len(rows)
