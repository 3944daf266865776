"""`POST /api/iot/live` in this process: events, positions, limits, ends."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from integration.api.asking import JSON, PASSWORD, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.live_streams import first, listening, open_stream, send, take
from integration.api.test_imported_times import IMPORT, old_row
from integration.api.test_tokens import Guarded
from iot_api.http.request import CONNECTION
from iot_api.limits.clients import Client
from iot_api.live import events as live_events
from iot_api.live import hub, live_rows, poller
from iot_api.live.events import MAX_READINGS
from iot_api.server.connection import Connection
from iot_cipher.followed_file import FollowedFile
from iot_cipher.tokens import new_tokens_text
from iot_models.scopes import Scope
from iot_models.segment import decode_segment
from iot_writer.writer import Writer
from support.counting import redis_commands
from support.draining import drain_all
from support.waiting import wait_until


def store(api: Api, writer: Writer, *texts: int, password: str = PASSWORD) -> None:
    """Send readings and store them in one segment."""
    send(api, *texts, password=password)
    drain_all(writer)


@pytest.fixture
def beating(make_api: MakeApi) -> Api:
    """An API whose streams send a heartbeat each second."""
    return make_api(live_heartbeat_seconds=1)


def test_a_reading_arrives_as_reads_return_it(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        opened = next(events)
        assert opened.name == "open"
        assert opened.id
        store(api, writer, 2, 3)
        event = next(events)
        assert event.name == "readings"
        assert event.texts == ["2", "3"], "in the order of receipt"
        stored = {reading["id"]: reading for reading in api.read()}
        assert event.data["data"] == [stored[number] for number in event.ids]


def test_the_headers_of_a_stream(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    answer = open_stream(api, headers={"Accept-Encoding": "gzip, zstd"})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "Content-Encoding" not in answer.headers
    assert "Content-Length" not in answer.headers
    answer.close()


def test_a_resume_at_another_process_misses_and_repeats_nothing(
    make_api: MakeApi, writer: Writer
) -> None:
    api, other = make_api(), make_api()
    store(api, writer, 0)
    with listening(api) as events:
        store(api, writer, 1, 2)
        texts, position = take(events, 2)
    store(api, writer, 3)
    store(api, writer, 4)
    with listening(other, position) as events:
        more, position = take(events, 2)
        store(api, writer, 5)
        last, position = take(events, 1)
    assert texts + more + last == ["1", "2", "3", "4", "5"]
    with listening(api, position) as events, listening(api, after=position) as second:
        store(api, writer, 6)
        assert take(events, 1)[0] == take(second, 1)[0] == ["6"]


def test_a_stream_may_begin_with_the_last_seconds(make_api: MakeApi, writer: Writer) -> None:
    api = make_api()
    store(api, writer, 1)
    store(api, writer, 2)
    with listening(api, last=60) as events:
        store(api, writer, 3)
        assert take(events, 3)[0] == ["1", "2", "3"]
    with listening(make_api(hot_window_seconds=0), last=60) as events:
        assert take(events, 0)[0] == []


def test_a_long_burst_comes_in_several_events(api: Api, writer: Writer) -> None:
    store(api, writer, 0)
    with listening(api) as events:
        next(events)
        rows = [row(freeform="x" * 1000 * (number % 2), interrogator_time=number)
                for number in range(1200)]  # fmt: skip
        assert api.put(rows).status_code == 201
        drain_all(writer)
        found = [next(events)]
        while sum(len(event.ids) for event in found) < 1200:
            found.append(next(events))
        assert max(len(event.ids) for event in found) <= 500
        assert max(sum(map(len, event.texts)) for event in found) <= 64 * 1024
    ids = [number for event in found for number in event.ids]
    with listening(api, found[3].id) as events:
        done = len([number for event in found[:4] for number in event.ids])
        again = [next(events), next(events)]
        rest = [number for event in again for number in event.ids]
        assert rest == ids[done : done + len(rest)], "a position within a burst"


def test_invented_addresses_take_at_most_half_of_the_streams(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(live_listeners=4)
    store(api, writer, 1)
    streams = [open_stream(api, headers={"X-Forwarded-For": f"192.0.2.{n}"}) for n in range(2)]
    third = open_stream(api, headers={"X-Forwarded-For": "192.0.2.3"})
    assert assert_error(third, 429, "too_many_requests")["reason"] == "live_streams"
    streams += [open_stream(api), open_stream(api)]
    assert [stream.status_code for stream in streams] == [200] * 4
    for stream in streams:
        stream.close()


def test_a_heartbeat_has_a_position(beating: Api, writer: Writer) -> None:
    store(beating, writer, 1)
    with listening(beating) as events:
        beat = first(events, "heartbeat")
        assert beat.data["time"] > 10**12
    store(beating, writer, 2)
    with listening(beating, beat.id) as events:
        assert take(events, 1)[0] == ["2"]


def test_imported_readings_are_left_out(beating: Api, writer: Writer) -> None:
    store(beating, writer, 1)
    with listening(beating) as events:
        position = next(events).id
        old = [old_row("2014-03-18 10:59:19", 7)]
        assert beating.ask("PUT", IMPORT, json.dumps(old), JSON).status_code == 201
        drain_all(writer)
        store(beating, writer, 2)
        assert take(events, 1)[0] == ["2"]
    with listening(beating, position) as events:
        assert take(events, 1)[0] == ["2"]


def test_wrong_requests(api: Api, writer: Writer) -> None:
    assert_error(api.post("/api/iot/live", "unknown"), 404, "not_found")
    unknown = sample("iot_unknown_passwords_total")
    api.post("/api/iot/live", "another")
    assert sample("iot_unknown_passwords_total") == unknown + 1
    store(api, writer, 1)
    store(api, writer, 2, password="other")
    with listening(api, password="other") as events:
        foreign = next(events).id
    for position in (foreign, "x", "AAAA", f"{foreign}A"):
        refused = assert_error(open_stream(api, position), 400, "invalid_request")
        assert refused["field"] == "Last-Event-ID"
    assert assert_error(open_stream(api, after="x"), 400, "invalid_request")["field"] == "after"
    assert_error(open_stream(api, last=-1), 400, "invalid_request")
    assert_error(open_stream(api, last="x"), 400, "invalid_request")


def test_streams_of_a_client_and_of_a_process_are_limited(
    make_api: MakeApi, writer: Writer
) -> None:
    api = make_api(live_listeners=3, live_listeners_per_client=2, trusted_proxies=1)
    store(api, writer, 1)

    def listen(address: str) -> Any:
        return open_stream(api, headers={"X-Forwarded-For": address})

    streams = [listen("192.0.2.1"), listen("192.0.2.1")]
    refused = sample("iot_refused_total", reason="live_streams")
    told = assert_error(listen("192.0.2.1"), 429, "too_many_requests")
    assert told["reason"] == "live_streams"
    streams.append(listen("192.0.2.2"))
    assert sample("iot_live_listeners") == 3
    assert_error(listen("192.0.2.3"), 429, "too_many_requests")
    assert sample("iot_refused_total", reason="live_streams") == refused + 2
    streams.pop().close()
    streams.append(listen("192.0.2.3"))
    assert streams[-1].status_code == 200
    for stream in streams:
        stream.close()
    assert sample("iot_live_listeners") == 0


def test_a_client_that_is_gone_makes_room(make_api: MakeApi, writer: Writer) -> None:
    api = make_api(live_listeners=1)
    store(api, writer, 1)
    ours, theirs = socket.socketpair()
    first_stream = open_stream(api, environ={CONNECTION: Connection(ours, "")})
    assert open_stream(api).status_code == 429
    theirs.close()
    second = open_stream(api)
    assert second.status_code == 200
    second.close()
    first_stream.close()
    ours.close()


def test_waiting_events_of_a_client_that_leaves_take_no_memory(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        next(events)
        (feed,) = api.service.live.feeds()
        (listener,) = feed.listeners
        store(api, writer, 2)
        wait_until(lambda: not listener.is_idle, what="an event waits")
    assert listener.is_idle


def test_all_streams_share_one_poll_and_one_decryption(
    api: Api, writer: Writer, redis: "Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def decode(bounds: Any, data: bytes) -> Any:
        decoded.append(bounds.count)
        return decode_segment(bounds, data)

    monkeypatch.setattr(live_rows, "decode_segment", decode)
    monkeypatch.setattr(poller, "POLL_SECONDS", 60)
    store(api, writer, 1)
    store(api, writer, 1, password="other")
    with (
        listening(api) as one,
        listening(api) as two,
        listening(api, password="other") as three,
    ):
        for events in (one, two, three):
            next(events)
        api.end_background_threads()
        api.service.live.poller.poll()
        with redis_commands(redis) as commands:
            api.service.live.poller.poll()
        assert commands == {"time": 1, "hgetall": 1}, "for all streams"
        store(api, writer, 2, 3)
        api.service.live.poller.poll()
        assert take(one, 2)[0] == take(two, 2)[0] == ["2", "3"]
        assert decoded == [2]


def test_an_erasure_ends_the_streams(make_api: MakeApi, writer: Writer) -> None:
    api, other = make_api(), make_api()
    store(api, writer, 1)
    with listening(other) as events:
        next(events)
        other_follower = other.service.change_follower
        body = json.dumps({"data": {"db_password": PASSWORD}})
        other_follower.check()
        assert api.ask("DELETE", "/api/vault", body, JSON).status_code == 200
        other_follower.check()
        last = list(events)[-1]
        assert (last.name, last.data["code"]) == ("error", "not_found")
        assert last.data["error"] == "the vault was erased"
    assert_error(open_stream(other), 404, "not_found")


def test_a_password_change_ends_the_streams_of_the_old_password(
    make_api: MakeApi, writer: Writer
) -> None:
    api, other = make_api(), make_api()
    store(api, writer, 1)
    with listening(other) as events:
        position = next(events).id
        other_follower = other.service.change_follower
        other_follower.check()
        body = json.dumps({"data": {"db_password": PASSWORD, "new_password": "new"}})
        assert api.ask("POST", "/api/vault/password", body, JSON).status_code == 200
        other_follower.check()
        last = list(events)[-1]
        assert (last.name, last.data["code"]) == ("error", "not_found")
    store(api, writer, 2, password="new")
    with listening(other, position, password="new") as events:
        assert take(events, 1)[0] == ["2"], "the position stays valid"


def test_a_process_that_reads_no_announcements_sends_no_readings_after_a_password_change(
    make_api: MakeApi, writer: Writer
) -> None:
    """Its thread that follows the announcements hangs."""
    api, other = make_api(), make_api()
    store(api, writer, 1)
    with listening(other) as events:
        store(api, writer, 2)
        _, position = take(events, 1)
        other.service.change_follower.check()
        body = json.dumps({"data": {"db_password": PASSWORD, "new_password": "new"}})
        assert api.ask("POST", "/api/vault/password", body, JSON).status_code == 200
        store(api, writer, 3, password="new")
        last = next(event for event in events if event.name != "heartbeat")
        assert (last.name, last.data.get("code")) == ("error", "not_found")
    with listening(other, position, password="new") as events:
        assert take(events, 1)[0] == ["3"]


@pytest.mark.parametrize("resumes", [True, False])
def test_readings_that_wait_for_a_client_are_not_sent_after_a_password_change(
    make_api: MakeApi, writer: Writer, monkeypatch: pytest.MonkeyPatch, *, resumes: bool
) -> None:
    """The thread that follows the announcements hangs."""
    monkeypatch.setattr(live_events, "MAX_READINGS", 1)
    api, other = make_api(), make_api()
    store(api, writer, 1)
    with listening(other) as events:
        position = next(events).id
        if resumes:
            store(api, writer, 2, 3)
    with listening(other, position if resumes else "") as events:
        next(events)
        if not resumes:
            store(api, writer, 2, 3)
        assert take(events, 1)[0] == ["2"]
        (feed,) = other.service.live.feeds()
        wait_until(lambda: resumes or not feed.listeners[0].is_idle)
        other.service.change_follower.check()
        body = json.dumps({"data": {"db_password": PASSWORD, "new_password": "new"}})
        assert api.ask("POST", "/api/vault/password", body, JSON).status_code == 200
        last = next(event for event in events if event.name != "heartbeat")
        assert (last.name, last.data.get("code")) == ("error", "not_found")


def test_no_stream_is_opened_with_a_password_that_is_being_changed(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(api, writer, 1)
    service = api.service
    vault = service.vaults.find(PASSWORD.encode(), Client("test"))
    assert vault is not None
    service.live.note_change(vault.vault_id, b"new")
    assert_error(open_stream(api), 503, "unavailable")
    monkeypatch.setattr(hub, "CHANGING_SECONDS", 0)
    open_stream(api).close()


def test_a_missed_announcement_ends_the_stream_too(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        next(events)
        writer.postgres().execute("UPDATE vaults SET lookup = sha256(lookup)")
        api.service.live.verify_soon()
        assert list(events)[-1].data["code"] == "unavailable"


def test_a_missed_announcement_ends_the_stream_after_an_outage(
    api: Api, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a store is away, records can't be compared."""
    store(api, writer, 1)
    monkeypatch.setattr(hub, "VERIFY_CHANGED_SECONDS", 0.05)
    with listening(api) as events:
        next(events)
        writer.postgres().execute("UPDATE vaults SET lookup = sha256(lookup)")
        restorer = api.service.live._restorer  # noqa: SLF001 - as after an error of Postgres
        restorer._away_until = time.monotonic() + 0.3  # noqa: SLF001
        api.service.live.verify_soon()
        assert list(events)[-1].data["code"] == "unavailable"


def test_a_removed_token_ends_the_stream(make_api: MakeApi, tmp_path: Path) -> None:
    guarded = Guarded(make_api, tmp_path / "tokens.json", live_heartbeat_seconds=1)
    guarded.api.put(row(), {"Authorization": guarded.bearer(Scope.ADMIN)})
    headers = {"Authorization": guarded.bearer(Scope.READ)}
    with listening(guarded.api, headers=headers) as events:
        next(events)
        guarded.path.write_text(new_tokens_text(), encoding="utf-8")
        last = list(events)[-1]
        assert (last.name, last.data["code"]) == ("error", "unauthorized")


def test_a_removed_token_ends_a_stream_that_catches_up(
    make_api: MakeApi, writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream has many stored events, and sends them at the pace of its client."""
    monkeypatch.setattr("iot_api.live.stream.CHECK_SECONDS", 0.0)
    guarded = Guarded(make_api, tmp_path / "tokens.json")
    ingest = {"Authorization": guarded.bearer(Scope.INGEST)}
    rows = [row(freeform=number) for number in range(3 * MAX_READINGS)]
    assert guarded.api.put(rows, ingest).status_code == 201
    drain_all(writer)
    headers = {"Authorization": guarded.bearer(Scope.READ)}
    with listening(guarded.api, headers=headers, last=60) as events:
        assert [next(events).name, next(events).name] == ["open", "readings"]
        guarded.path.write_text(new_tokens_text())
        monkeypatch.setattr(FollowedFile, "CHECK_SECONDS", 0.0)
        wait_until(lambda: open_stream(guarded.api, headers=headers).status_code == 401, what="401")
        event = next(events)
        assert (event.name, event.data["code"]) == ("error", "unauthorized")
        assert list(events) == []


def test_a_shutdown_ends_streams_and_refuses_new_ones(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        next(events)
        api.service.live.stop()
        (last,) = events
        assert (last.name, last.data["code"]) == ("error", "unavailable")
    assert_error(open_stream(api), 503, "unavailable")


def test_a_stream_is_recorded(make_api: MakeApi, writer: Writer) -> None:
    api = make_api(audit_reads=1)
    store(api, writer, 1)
    with listening(api) as events:
        store(api, writer, 2)
        take(events, 1)
    events_of_reads = [
        each["event"]
        for each in api.ask("GET", "/api/audit").get_json()["data"]
        if each["event"] and each["event"]["event"].startswith("read")
    ]
    begun, ended = sorted(events_of_reads, key=lambda event: str(event["event"]))
    assert (begun["event"], begun["range"]) == ("read", "live")
    assert (ended["event"], ended["readings"], ended["complete"]) == ("read_ended", 1, False)


def test_the_delay_and_the_events_are_counted(api: Api, writer: Writer) -> None:
    store(api, writer, 1)
    with listening(api) as events:
        before = sample("iot_live_readings_sent_total")
        store(api, writer, 2, 3)
        take(events, 2)
        assert sample("iot_live_readings_sent_total") == before + 2
        assert sample("iot_live_events_total", event="readings") >= 1
        assert wait_until(lambda: sample("iot_live_delay_seconds_count"))
