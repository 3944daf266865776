"""What the API adds to the audit log."""

import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest
from werkzeug.test import TestResponse

from integration.api.asking import JSON, Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from integration.api.live_streams import open_stream, send
from iot_api.audit.access_audit import AccessAudit
from iot_api.http.request import CONNECTION
from iot_api.query import responses
from iot_api.server.connection import Connection
from iot_cipher.tokens import new_tokens_text, with_token, without_token
from iot_stores.audit_check import check_audit
from iot_writer.maintenance.audit_chainer import AuditChainer
from iot_writer.writer import Writer
from support.draining import drain_all
from support.live_events import parse_events

OLD, NEW = "old password", "new password"
SECRETS = (OLD, NEW, "freeform text")


def _access_audit(api: Api) -> AccessAudit:
    return api.service.access_audit


def events(api: Api, headers: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return the events of the audit log without their times, as `GET /api/audit` returns them."""
    answer = api.ask("GET", "/api/audit", headers=headers)
    assert answer.status_code == 200, answer.text
    assert not any(secret in answer.text for secret in SECRETS)
    found = [line["event"] for line in answer.get_json()["data"]]
    return [{name: value for name, value in each.items() if name != "time"} for each in found]


def change(api: Api) -> TestResponse:
    body = json.dumps({"data": {"db_password": OLD, "new_password": NEW}})
    return api.ask("POST", "/api/vault/password", body, JSON)


def vault_id(postgres: psycopg.Connection) -> str:
    (found,) = postgres.execute("SELECT vault_id FROM vaults").fetchone() or ("",)
    return str(found)


def test_the_creation_of_a_vault_is_recorded_once(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    api, other = make_api(audit_vaults=1), make_api(audit_vaults=1)
    for each in (api, other, api):
        assert each.put(row(OLD, freeform="freeform text")).status_code == 201
    created = {"event": "vault_created", "vault": vault_id(postgres), "token": None}
    assert events(api) == [created | {"client": "127.0.0.1"}]


def test_a_change_of_a_password_is_recorded_with_the_change(
    make_api: MakeApi, postgres: psycopg.Connection, writer: Writer
) -> None:
    api = make_api(audit_vaults=1)
    api.put(row(OLD))
    assert change(api).status_code == 200
    assert change(api).status_code == 404
    assert [each["event"] for each in events(api)] == ["vault_created", "password_changed"]
    assert events(api)[1]["vault"] == vault_id(postgres)
    AuditChainer.run(writer.audit_chainer, writer.postgres, writer.drop_postgres)
    check_audit(postgres, writer.keys.current(), writer.stores.audit_head.read())


def test_no_password_is_changed_without_a_record(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    api = make_api(audit_vaults=1)
    api.put(row(OLD, freeform="1"))
    before = postgres.execute("SELECT lookup FROM vaults").fetchall()
    postgres.execute("DROP FUNCTION record_audit_event")
    answer = change(api)
    assert "iot-sensor migrate" in assert_error(answer, 503, "unavailable")["error"]
    assert postgres.execute("SELECT lookup FROM vaults").fetchall() == before


def test_no_password_is_changed_when_the_record_is_refused(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    api = make_api(audit_vaults=1)
    api.put(row(OLD))
    before = postgres.execute("SELECT lookup FROM vaults").fetchall()
    postgres.execute("ALTER TABLE audit_log ADD CHECK (id < 2)")
    assert change(api).status_code == 500
    assert postgres.execute("SELECT lookup FROM vaults").fetchall() == before
    assert [each["event"] for each in events(api)] == ["vault_created"]


def test_before_the_migration_readings_are_accepted_and_the_gap_is_counted(
    make_api: MakeApi, postgres: psycopg.Connection
) -> None:
    api = make_api(audit_vaults=1)
    postgres.execute("DROP FUNCTION record_audit_event")
    before = sample("iot_audit_unrecorded_total")
    assert api.put([row(OLD), row(NEW)]).status_code == 201
    assert sample("iot_audit_unrecorded_total") == before + 2
    assert events(api) == []


class Guarded:
    """An API with tokens."""

    def __init__(self, make_api: MakeApi, path: Path, **changes: Any) -> None:
        self.path = path
        text, self.ops = with_token(new_tokens_text(), "ops", ["audit", "read"])
        self.text, self.device = with_token(text, "device", ["ingest"])
        self.write(self.text)
        self.api = make_api(tokens_file=str(path), **changes)

    def write(self, text: str) -> None:
        # Of another size each time: the API compares the time, size and inode of the file.
        self.path.write_text(text)

    def events(self) -> list[dict[str, Any]]:
        found = events(self.api, {"Authorization": f"Bearer {self.ops}"})
        assert not any(token in json.dumps(found) for token in (self.ops, self.device))
        return found


@pytest.fixture
def guarded(make_api: MakeApi, tmp_path: Path) -> Guarded:
    return Guarded(make_api, tmp_path / "tokens.json")


def _refusal(count: int, reason: str, scope: str, token: str | None) -> dict[str, Any]:
    return {
        "event": "access_refused",
        "reason": reason,
        "scope": scope,
        "token": token,
        "client": "127.0.0.1",
        "count": count,
    }


def test_refused_access_is_counted_and_recorded(guarded: Guarded) -> None:
    api = guarded.api
    wrong = {"Authorization": "Bearer iot_" + "x" * 43}
    for _ in range(50):
        assert api.put(row("p"), wrong).status_code == 401
        assert api.ask("POST", "/api/iot", headers=wrong).status_code == 401
    assert api.put(row("p")).status_code == 401
    bearer = {"Authorization": f"Bearer {guarded.device}"}
    assert api.ask("GET", "/api/audit", headers=bearer).status_code == 403
    _access_audit(api).check()
    assert guarded.events() == [
        _refusal(50, "unknown_token", "ingest", None),
        _refusal(50, "unknown_token", "read", None),
        _refusal(1, "no_token", "ingest", None),
        _refusal(1, "scope", "audit", "device"),
    ]
    assert api.put(row("p"), wrong).status_code == 401
    _access_audit(api).check()
    assert len(guarded.events()) == 4  # the next record of this client is due in a minute
    _access_audit(api).check(last=True)
    assert guarded.events()[4:] == [_refusal(1, "unknown_token", "ingest", None)]


@pytest.mark.usefixtures("rate_clock")
def test_reached_limits_are_counted_and_recorded(make_api: MakeApi, tmp_path: Path) -> None:
    """PUTs and reads have one record for each token, and none for each request."""
    guarded = Guarded(make_api, tmp_path / "tokens.json", rate_limit_token=2)
    api = guarded.api
    device = {"Authorization": f"Bearer {guarded.device}"}
    for status in (201, 201, *(429 for _ in range(30))):
        assert api.put(row("p"), device).status_code == status
    ops = {"Authorization": f"Bearer {guarded.ops}"}
    for status in (200, 200, *(429 for _ in range(20))):
        body = json.dumps({"data": {"db_password": "p"}})
        assert api.ask("POST", "/api/iot", body, JSON | ops).status_code == status
    _access_audit(api).check()
    reached = {"event": "limit_reached", "reason": "rate", "client": "127.0.0.1"}
    assert events(make_api(tokens_file=str(guarded.path)), ops) == [
        reached | {"token": "device", "count": 30},
        reached | {"token": "ops", "count": 20},
    ]


@pytest.mark.usefixtures("rate_clock")
def test_the_limit_of_an_import_is_recorded_with_its_token(
    make_api: MakeApi, tmp_path: Path
) -> None:
    """An import needs a token, even if other PUTs need none."""
    path = tmp_path / "tokens.json"
    text, token = with_token(new_tokens_text(), "operator", ["admin", "audit"])
    path.write_text(text)
    api = make_api(tokens_file=str(path), anonymous_scopes="ingest", rate_limit_token=1)
    bearer = {"Authorization": f"Bearer {token}"}
    body = json.dumps(row("p", absolute_timestamp="2014-03-18 10:59:19"))
    for status in (201, 429):
        answer = api.ask("PUT", "/api/iot?received=original", body, JSON | bearer)
        assert answer.status_code == status
    _access_audit(api).check()
    (found,) = events(make_api(tokens_file=str(path)), bearer)
    assert (found["event"], found["token"], found["count"]) == ("limit_reached", "operator", 1)


def test_refusals_wait_until_the_log_can_be_written(
    guarded: Guarded, postgres: psycopg.Connection
) -> None:
    assert guarded.api.put(row("p")).status_code == 401
    postgres.execute("ALTER FUNCTION record_audit_event RENAME TO hidden")
    for _ in range(3):
        with pytest.raises(Exception, match="migrate"):
            _access_audit(guarded.api).check()
    postgres.execute("ALTER FUNCTION hidden RENAME TO record_audit_event")
    _access_audit(guarded.api).check()
    assert guarded.events() == [_refusal(1, "no_token", "ingest", None)]


@pytest.fixture
def files_are_checked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every use of a file check the file."""
    monkeypatch.setattr("iot_cipher.followed_file.FollowedFile.CHECK_SECONDS", 0.0)


@pytest.mark.usefixtures("files_are_checked_at_once")
def test_changes_of_the_tokens_are_recorded(guarded: Guarded) -> None:
    audit = _access_audit(guarded.api)
    audit.check()
    assert guarded.events() == []
    text, _ = with_token(guarded.text, "sensor-7", ["ingest", "read"])
    guarded.write(text)
    audit.check()
    guarded.write(without_token(text, "device"))
    audit.check()
    audit.check()
    found = guarded.events()
    assert [(each["event"], each["name"], each["scopes"]) for each in found] == [
        ("token_added", "sensor-7", "ingest, read"),
        ("token_removed", "device", "ingest"),
    ]
    assert all(each["seen_by"] for each in found)


@pytest.fixture
def audited(make_api: MakeApi, tmp_path: Path, writer: Writer) -> Guarded:
    """An API that records reads, with three stored readings."""
    made = Guarded(make_api, tmp_path / "tokens.json", audit_reads=1)
    bearer = {"Authorization": f"Bearer {made.device}"}
    rows = [row(OLD, relative_time=number, freeform="freeform text") for number in range(3)]
    assert made.api.put(rows, bearer).status_code == 201
    drain_all(writer)
    return made


def _read(guarded: Guarded, path: str = "", password: str = OLD) -> TestResponse:
    body = json.dumps({"data": {"db_password": password}})
    headers = {**JSON, "Authorization": f"Bearer {guarded.ops}"}
    return guarded.api.ask("POST", f"/api/iot{path}", body, headers)


def _reads(guarded: Guarded) -> list[dict[str, Any]]:
    return [each for each in guarded.events() if each["event"].startswith("read")]


def test_reads_are_recorded_if_asked_for(audited: Guarded, postgres: psycopg.Connection) -> None:
    paths = {"": 3, "/1": 2, "/0/1": 2, "/last/1": 1, "/seconds/600": 3, "/maxtime": 0}
    paths |= {"/series?step=1d": 3, "/series?fields=a&to=9999-01-01T00:00:00Z": 3}
    for path in paths:
        assert _read(audited, path).status_code == 200
    assert _read(audited, "?limit=2").status_code == 200
    assert _read(audited, "", "unknown").get_json() == {"data": []}
    found = _reads(audited)
    assert {each["event"] for each in found} == {"read"}
    assert [each["readings"] for each in found] == [*paths.values(), 2]
    assert [each["range"] for each in found] == [
        "all", "from 1", "between 0 1", "last 1", "seconds 600", "maxtime",
        "series", "series received ..253370764800000000", "all",
    ]  # fmt: skip
    for each in found:
        assert (each["vault"], each["token"]) == (vault_id(postgres), "ops")
    assert len({each["read"] for each in found}) == len(found)


def test_reads_are_not_recorded_by_default(make_api: MakeApi) -> None:
    api = make_api(audit_vaults=1)
    api.put(row(OLD))
    api.read(password=OLD)
    assert [each["event"] for each in events(api)] == ["vault_created"]


@pytest.mark.parametrize("path", ["", "/last/1", "/maxtime", "/series?step=1d", "/series?fields=a"])
def test_a_read_that_cant_be_recorded_is_refused(
    audited: Guarded, postgres: psycopg.Connection, path: str
) -> None:
    postgres.execute("DROP FUNCTION record_audit_event")
    answer = _read(audited, path)
    assert "IOT_AUDIT_READS" in assert_error(answer, 503, "unavailable")["error"]
    assert "freeform text" not in answer.text


def test_a_streamed_read_is_recorded_before_its_first_and_its_last_byte(
    audited: Guarded, postgres: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "WHOLE_BYTES", 10)
    monkeypatch.setattr(responses, "CHUNK", 1)
    monkeypatch.setattr(responses, "RUN_CHUNK", 1)
    answer = _read(audited)
    assert len(answer.get_json()["data"]) == 3
    begun, ended = _reads(audited)
    assert (begun["event"], "readings" in begun) == ("read", False)
    assert (ended["event"], ended["readings"], ended["complete"]) == ("read_ended", 3, True)
    assert begun["read"] == ended["read"]
    postgres.execute("DROP FUNCTION record_audit_event")
    assert _read(audited).status_code == 503


def test_a_read_whose_last_piece_is_too_long_for_one_piece_has_one_record(
    audited: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses, "WHOLE_BYTES", len(_read(audited).data) - 1)
    assert len(_read(audited).get_json()["data"]) == 3
    assert [(each["event"], each["readings"]) for each in _reads(audited)] == [("read", 3)] * 2


@pytest.fixture
def streamed(audited: Guarded, monkeypatch: pytest.MonkeyPatch) -> TestResponse:
    """The response to a read, one reading a piece. No piece is requested yet."""
    monkeypatch.setattr(responses, "WHOLE_BYTES", 10)
    monkeypatch.setattr(responses, "CHUNK", 1)
    monkeypatch.setattr(responses, "RUN_CHUNK", 1)
    client = audited.api.app.test_client()
    body = json.dumps({"data": {"db_password": OLD}})
    headers = {**JSON, "Authorization": f"Bearer {audited.ops}"}
    return client.post("/api/iot", data=body, headers=headers, buffered=False)


def test_a_streamed_read_without_its_second_record_is_not_completed(
    streamed: TestResponse, postgres: psycopg.Connection
) -> None:
    pieces = streamed.iter_encoded()
    next(pieces)
    postgres.execute("DROP FUNCTION record_audit_event")
    before = sample("iot_audit_unrecorded_total")
    with pytest.raises(Exception, match="IOT_AUDIT_READS"):
        list(pieces)
    assert sample("iot_audit_unrecorded_total") == before + 1


def test_a_streamed_read_that_the_client_ends_is_recorded_with_its_count(
    audited: Guarded, streamed: TestResponse
) -> None:
    next(streamed.iter_encoded())
    streamed.close()
    (_, ended) = _reads(audited)
    assert (ended["event"], ended["complete"]) == ("read_ended", False)
    assert 1 <= ended["readings"] < 3


@pytest.mark.parametrize("idle", [False, True])
def test_a_live_stream_sends_nothing_to_a_client_that_is_gone(
    make_api: MakeApi, writer: Writer, *, idle: bool
) -> None:
    api = make_api(audit_reads=1, live_heartbeat_seconds=1 if idle else 60)
    api.put(row(OLD))
    drain_all(writer)
    sent = sample("iot_live_readings_sent_total")
    ours, theirs = socket.socketpair()
    with ours:
        stream = open_stream(api, password=OLD, environ={CONNECTION: Connection(ours, "")})
        received = parse_events(stream.iter_encoded())
        assert next(received).name == "open"
        theirs.close()
        if not idle:
            send(api, 1, password=OLD)
            drain_all(writer)
        assert next(received, None) is None
    assert sample("iot_live_readings_sent_total") == sent
    assert sample("iot_live_listeners") == 0
    (begun, ended) = events(api)
    assert (begun["event"], "readings" in begun) == ("read", False)
    assert (ended["event"], ended["readings"], ended["complete"]) == ("read_ended", 0, False)
