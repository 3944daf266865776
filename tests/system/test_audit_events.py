"""The running service records what its clients and its operators do, and the chain stays whole."""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from iot_cipher.keyring import KeyringFile
from iot_cipher.tokens import new_tokens_text, with_token, without_token
from iot_models.settings import Settings
from iot_stores.audit import AuditLog
from iot_tools.cli.main import main
from iot_writer.writer import Writer
from support.processes import api_workers
from support.stack import MakeStack, Stack
from support.waiting import wait_until

PASSWORD, NEW = "Zq7HeronWillow password", "Zq7HeronWillow new password"
TEXT = "Xk4OtterMeadow"
WORKERS = 2
Event = dict[str, Any]


class Service:
    """A stack that records reads, and its tokens."""

    def __init__(self, make_stack: MakeStack, path: Path) -> None:
        self._path = path
        text, self.admin = with_token(new_tokens_text(), "ops", ["admin"])
        self.text, self.device = with_token(text, "device", ["ingest", "read"])
        self.replace_tokens(self.text)
        self.stack: Stack = make_stack(
            {
                "IOT_TOKENS_FILE": str(path),
                "IOT_AUDIT_READS": "1",
                "IOT_AUDIT_VAULTS": "1",
                "IOT_RETENTION_DAYS": "1",
                "IOT_API_WORKERS": str(WORKERS),
            }
        )

    def replace_tokens(self, text: str) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_text(text, encoding="utf-8")
        draft.replace(self._path)

    def ask(self, token: str, method: str, path: str, content: object = None) -> tuple[int, Any]:
        """Send a request. Return the status and the decoded body."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        body = None if content is None else json.dumps(content)
        answer = self.stack.request(method, path, body, headers)
        return answer.status, answer.json()

    def events(self, kind: str) -> list[Event]:
        """Return the events of a kind from all pages of the log."""
        found: list[Event] = []
        before = ""
        while True:
            status, content = self.ask(self.admin, "GET", f"/api/audit?limit=50{before}")
            assert status == 200
            if not content["data"]:
                return [event for event in found if event["event"] == kind]
            found = [line.get("event") or {"event": ""} for line in content["data"]] + found
            before = f"&before={content['data'][0]['id']}"

    def wait_for(self, kind: str, count: int = 1) -> list[Event]:
        def found() -> list[Event]:
            events = self.events(kind)
            return events if len(events) >= count else []

        return wait_until(found, what=kind)


@pytest.fixture
def service(make_stack: MakeStack, tmp_path: Path) -> Service:
    return Service(make_stack, tmp_path / "tokens.json")


def _plaintexts(postgres_url: str, settings: Settings) -> list[str]:
    log = AuditLog(KeyringFile(Path(settings.keyring_file)).current)
    with psycopg.connect(postgres_url) as connection:
        return [line for _, _, line in log.latest(connection, 10_000)]


def test_each_kind_of_action_is_in_the_log(
    service: Service,
    environment: Mapping[str, str],
    settings: Settings,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        if name.startswith("IOT_"):
            monkeypatch.setenv(name, value)
    rows = [{"data": {"db_password": PASSWORD, "freeform": TEXT}} for _ in range(3)]
    assert service.ask(service.device, "PUT", "/api/iot?ack=stored", rows)[0] == 201
    (created,) = service.events("vault_created")
    assert (created["token"], created["client"]) == ("device", "127.0.0.1")

    status, read = service.ask(
        service.device, "POST", "/api/iot/last/2", {"data": {"db_password": PASSWORD}}
    )
    assert (status, len(read["data"])) == (200, 2)
    (event,) = service.events("read")
    assert (event["token"], event["vault"]) == ("device", created["vault"])
    assert (event["range"], event["readings"]) == ("last 2", 2)

    body = {"data": {"db_password": PASSWORD, "new_password": NEW}}
    assert service.ask(service.device, "POST", "/api/vault/password", body)[0] == 403
    assert service.ask(service.admin, "POST", "/api/vault/password", body)[0] == 200
    (event,) = service.events("password_changed")
    assert (event["token"], event["vault"]) == ("ops", created["vault"])
    event = service.wait_for("access_refused")[0]
    assert (event["reason"], event["scope"], event["token"]) == ("scope", "admin", "device")

    text, sensor = with_token(service.text, "sensor-7", ["ingest"])
    service.replace_tokens(text)
    added = service.wait_for("token_added", WORKERS)  # each process loads the file
    assert {event["name"] for event in added} == {"sensor-7"}
    service.replace_tokens(without_token(text, "sensor-7"))
    removed = service.wait_for("token_removed", WORKERS)
    assert {event["name"] for event in removed} == {"sensor-7"}
    assert service.ask(sensor, "PUT", "/api/iot", rows)[0] == 401
    wait_until(
        lambda: any(
            event["reason"] == "unknown_token" for event in service.events("access_refused")
        ),
        what="the refusal of an unknown token",
    )

    writer.backlog.append([(0, b"no entry")])
    (event,) = service.wait_for("entry_set_aside")
    assert event["shard"] == 0
    assert main(["dead", "drop", "--all"]) == 0
    assert service.wait_for("dead_letter_dropped")[0]["reason"]

    capsys.readouterr()
    wait_until(lambda: main(["audit", "verify"]) == 0, what="a whole chain with a head")
    assert "the audit log is whole" in capsys.readouterr().out
    lines = _plaintexts(settings.postgres_url, settings)
    secrets = (PASSWORD, NEW, TEXT, service.admin, service.device, sensor)
    assert len(lines) >= 10
    assert not [line for line in lines if any(secret in line for secret in secrets)]


def test_killed_processes_neither_lose_nor_repeat_a_record(
    service: Service, settings: Settings
) -> None:
    """API processes and writers are killed while vaults are created and read."""
    passwords = [f"{PASSWORD} {number}" for number in range(40)]
    created, read = 0, 0
    stack = service.stack
    for number, password in enumerate(passwords):
        if number % 10 == 5:
            assert stack.api is not None
            for pid in api_workers(stack.api.pid):
                os.kill(pid, signal.SIGKILL)
            for writer in stack.writers:
                writer.kill()
            stack.start_writer()
            wait_until(stack.answers, what="an API that answers")
        try:
            row = {"data": {"db_password": password, "freeform": TEXT}}
            created += service.ask(service.device, "PUT", "/api/iot", row)[0] == 201
            body = {"data": {"db_password": password}}
            read += service.ask(service.device, "POST", "/api/iot", body)[0] == 200
        except OSError:
            continue  # a killed process did not answer
    assert created > 20
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        stored = {str(each) for (each,) in connection.execute("SELECT vault_id FROM vaults")}
    recorded = [event["vault"] for event in service.events("vault_created")]
    assert sorted(recorded) == sorted(stored)
    assert len(stored) >= created
    assert len(service.events("read")) >= read
    with psycopg.connect(settings.postgres_url, autocommit=True) as connection:
        wait_until(
            lambda: connection.execute("SELECT count(*) FROM audit_pending").fetchone() == (0,),
            what="the chain",
        )
        assert connection.execute(
            "SELECT (SELECT count(*) FROM audit_log) = (SELECT count(*) FROM audit_chain)"
        ).fetchone() == (True,)
