"""The trace of a request: from HTTP through the stream to the commit, and of a read."""

import json
import re
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from redis import Redis

from integration.api.asking import JSON, Api, row
from integration.api.conftest import MakeApi
from iot_api.http.request import CONNECTION
from iot_api.server.connection import Connection
from iot_models import tracing
from iot_models.settings import Settings
from iot_writer.writer import Writer
from support.spans import recorded_spans

TRACE = "a1" * 16
PARENT = {"traceparent": f"00-{TRACE}-{'b2' * 8}-01"}


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    with recorded_spans() as exporter:
        yield exporter


@pytest.fixture
def traced(spans: InMemorySpanExporter, make_api: MakeApi) -> Api:
    """The API, with an open vault and no spans so far."""
    api = make_api()
    assert api.put(row()).status_code == 201
    spans.clear()
    return api


def drain(settings: Settings) -> None:
    writer = Writer(settings)
    try:
        writer.drain_shards(range(settings.shards))
    finally:
        writer.close()


def tree(exporter: InMemorySpanExporter, trace: str | None = None) -> dict[str, str]:
    """Return the names of the spans of a trace, with the names of their parents."""
    found = exporter.get_finished_spans()
    if trace is not None:
        found = tuple(each for each in found if trace_of(each) == trace)
    assert len({trace_of(each) for each in found}) == 1
    names = {each.context.span_id: each.name for each in found if each.context}
    return {each.name: names.get(each.parent.span_id, "") if each.parent else "" for each in found}


def trace_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.trace_id:032x}"


def fields_in_streams(client: "Redis") -> list[set[bytes]]:
    found: list[Any] = []
    for name in client.scan_iter("iot:ingest:*", _type="stream"):
        found += cast("list[Any]", client.xrange(name))
    return [set(fields) for _, fields in found]


def test_one_put_is_one_trace_from_http_to_the_commit(
    spans: InMemorySpanExporter, make_api: MakeApi, settings: Settings
) -> None:
    answer = make_api().put(row(), PARENT)
    drain(settings)
    assert tree(spans) == {
        "PUT /api/iot": "",  # its parent is the client's span
        "parse readings": "PUT /api/iot",
        "open a vault": "PUT /api/iot",
        "ask Postgres": "open a vault",
        "append to the backlog": "PUT /api/iot",
        "store an entry": "append to the backlog",
        "read and open entries": "store an entry",
        "commit": "store an entry",
        "write the hot window": "store an entry",
        "trim the streams": "store an entry",
    }
    found = {each.name: each for each in spans.get_finished_spans()}
    put, append, stored = (
        found[name] for name in ("PUT /api/iot", "append to the backlog", "store an entry")
    )
    assert trace_of(put) == TRACE
    assert put.attributes is not None
    assert put.attributes["iot.request_id"] == answer.headers["X-Request-Id"]
    assert put.attributes["http.response.status_code"] == 201
    assert append.attributes is not None
    assert stored.attributes is not None
    assert append.attributes["iot.entry"] == (stored.attributes["iot.entry"],)
    assert stored.attributes["iot.stored"] is True
    assert put.start_time is not None
    assert stored.end_time is not None
    assert put.start_time < stored.end_time


def test_a_read_is_a_trace_that_ends_with_its_answer(
    spans: InMemorySpanExporter, traced: Api, settings: Settings
) -> None:
    drain(settings)
    spans.clear()
    for path in ("/seconds/60", "/last/1"):
        with traced.post(f"/api/iot{path}") as answer:  # closes the answer, as the worker does
            assert len(json.loads(answer.data)["data"]) == 1
    traced.ask("GET", "/api/iot/maxtime").close()
    found = spans.get_finished_spans()
    hot, last, maxtime = (each for each in found if each.name.startswith(("POST", "GET")))
    assert hot.name == "POST /api/iot/seconds/<count>"
    assert tree(spans, trace_of(hot))["look into the hot window"] == hot.name
    assert tree(spans, trace_of(last))["produce a batch of readings"] == last.name
    assert tree(spans, trace_of(maxtime))["ask Postgres"] == maxtime.name
    batch = next(each for each in found if each.name == "produce a batch of readings")
    assert batch.end_time is not None
    assert hot.end_time is not None
    assert batch.end_time <= hot.end_time


def test_an_unsampled_request_leaves_no_trace(
    spans: InMemorySpanExporter, traced: Api, settings: Settings, redis: "Redis"
) -> None:
    drain(settings)
    unsampled = {"traceparent": PARENT["traceparent"][:-1] + "0"}
    spans.clear()
    assert traced.put(row(), unsampled).status_code == 201
    assert fields_in_streams(redis) == [{b"e", b"t"}]
    drain(settings)
    assert spans.get_finished_spans() == ()


def test_each_vault_of_a_traced_request_has_its_entry(
    spans: InMemorySpanExporter, make_api: MakeApi, settings: Settings, redis: "Redis"
) -> None:
    assert make_api().put([row("p"), row("q")], PARENT).status_code == 201
    assert fields_in_streams(redis) == [{b"e", b"t", b"p"}] * 2
    drain(settings)
    stored = [each for each in spans.get_finished_spans() if each.name == "store an entry"]
    assert [trace_of(each) for each in stored] == [TRACE] * 2


def test_entries_carry_nothing_while_traces_are_off(api: Api, redis: "Redis") -> None:
    assert api.put(row(), PARENT).status_code == 201
    assert fields_in_streams(redis) == [{b"e", b"t"}]


def test_a_writer_without_traces_stores_traced_entries(
    spans: InMemorySpanExporter, traced: Api, settings: Settings
) -> None:
    """As during a rolling update, and as writers of earlier versions do."""
    assert traced.put(row(relative_time=5), PARENT).status_code == 201
    tracing.stop()
    drain(settings)
    assert len(traced.read()) == 2
    assert "store an entry" not in {each.name for each in spans.get_finished_spans()}


def test_a_planted_parent_stops_nothing(traced: Api, settings: Settings, redis: "Redis") -> None:
    assert traced.put(row(relative_time=5), PARENT).status_code == 201
    (stream,) = redis.scan_iter("iot:ingest:*", _type="stream")
    for _, fields in cast("list[Any]", redis.xrange(stream)):
        redis.xadd(stream, {**fields, b"p": b"\xff\x00" * 1000})
        redis.xadd(stream, {b"e": b"planted", b"p": PARENT["traceparent"]})
    drain(settings)
    assert len(traced.read()) == 2


def test_spans_hold_no_secret(spans: InMemorySpanExporter, traced: Api, settings: Settings) -> None:
    secret = "Zq7secret"
    body = json.dumps(row(secret, freeform="Zq7reading"))
    given = {**JSON, **PARENT, "tracestate": f"a={secret}", "User-Agent": secret}
    for path in ("/api/iot", f"/api/iot?ack={secret}", f"/api/iot/{secret}"):
        traced.ask("PUT", path, body, given)
        traced.ask("POST", path, body, given)
    traced.ask(secret, f"/{secret}", "Zq7", given)
    traced.ask("PUT", "/api/iot", body[:-1], given)
    drain(settings)
    traced.read("/last/9", secret)
    found = spans.get_finished_spans()
    assert len(found) > 20
    assert not re.search("Zq7", "".join(each.to_json() for each in found))


def test_a_failed_request_says_so(
    spans: InMemorySpanExporter, traced: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("Zq7secret")

    monkeypatch.setattr(type(traced.service.intake), "accept", broken)
    assert traced.put(row()).status_code == 500
    (put,) = (each for each in spans.get_finished_spans() if each.name == "PUT /api/iot")
    assert not put.status.is_ok
    assert put.events == ()


def test_a_live_stream_ends_its_span_with_its_head(
    traced: Api, spans: InMemorySpanExporter
) -> None:
    ours, theirs = socket.socketpair()
    answer = traced.app.test_client().open(
        "/api/iot/live",
        method="POST",
        data=json.dumps(row()),
        headers=JSON,
        environ_overrides={CONNECTION: Connection(ours, "")},
    )
    assert answer.status_code == 200
    assert [each.name for each in spans.get_finished_spans()] == ["POST /api/iot/live"]
    answer.close()
    ours.close()
    theirs.close()
