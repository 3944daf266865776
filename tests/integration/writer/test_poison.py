"""A reading that Postgres refuses becomes a dead letter and can be replayed after the fault is
fixed.
"""

import json
from typing import Any

import psycopg
import pytest
from flask.testing import FlaskClient

from iot_models.audit_event import AuditEvent, describe
from iot_stores import history
from iot_stores.dead_letters import DeadLetters
from iot_tools.cli.main import main
from iot_tools.cli.stores import CommandStores
from iot_writer.drain import drain as drain_module
from iot_writer.writer import Writer
from support.draining import drain_all, read_waiting
from support.keys import KEYS

TRIGGER = """
    CREATE FUNCTION refuse() RETURNS trigger AS $$
    BEGIN
        IF new.relative_min = 666 OR new.relative_max = 666 THEN
            RAISE EXCEPTION 'no beasts' USING ERRCODE = 'check_violation';
        END IF;
        RETURN new;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER refuse BEFORE INSERT ON segments FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def put(client: FlaskClient, *times: int, vault: str = "p") -> None:
    for time in times:
        row = {"db_password": vault, "relative_time": time, "freeform": time}
        assert client.put("/api/iot", json={"data": row}).status_code == 201


def read(client: FlaskClient, vault: str = "p") -> list[str]:
    answer = client.post("/api/iot", json={"data": {"db_password": vault}})
    return [row["freeform"] for row in json.loads(answer.data)["data"]]


@pytest.fixture
def poisoned(client: FlaskClient, writer: Writer, postgres: psycopg.Connection) -> FlaskClient:
    """A database that refuses one of three readings."""
    postgres.execute(TRIGGER)
    put(client, 1, 666, 3)
    put(client, 4, vault="q")
    drain_all(writer)
    return client


def heal(postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TRIGGER refuse ON segments")


def test_the_rest_of_the_batch_is_stored(poisoned: FlaskClient, writer: Writer) -> None:
    assert read(poisoned) == ["1", "3"]
    assert read(poisoned, "q") == ["4"]
    (letter,) = DeadLetters(writer.redis, KEYS).all()
    assert "no beasts" in letter.reason
    assert any("no beasts" in line for _, _, line in writer.audit.latest(writer.postgres(), 9))


def test_a_refused_entry_is_found_with_few_attempts(
    client: FlaskClient,
    writer: Writer,
    postgres: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One by one, a drain of thousands of entries would exceed the timeout of a job."""
    attempts = 0
    insert = history.insert

    def counted(*arguments: Any) -> None:
        nonlocal attempts
        attempts += 1
        insert(*arguments)

    monkeypatch.setattr(history, "insert", counted)
    monkeypatch.setattr(drain_module, "MAX_ISOLATED", 1, raising=False)
    postgres.execute(TRIGGER)
    put(client, *range(30), 666)
    drain_all(writer)
    assert read(client) == [str(number) for number in range(30)]
    assert len(list(DeadLetters(writer.redis, KEYS).all())) == 1
    assert attempts < 15


@pytest.mark.usefixtures("command_environment")
def test_a_replayed_reading_is_stored_once(
    poisoned: FlaskClient,
    writer: Writer,
    postgres_url: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    letters = DeadLetters(writer.redis, KEYS)
    (letter,) = letters.all()
    assert main(["dead", "list"]) == 0
    assert letter.letter_id in capsys.readouterr().out
    assert main(["dead", "show", letter.letter_id]) == 0
    shown = capsys.readouterr().out
    assert "1 readings of vault" in shown
    assert "no beasts" in shown
    assert main(["dead", "replay", letter.letter_id]) == 0  # refused again
    drain_all(writer)
    (letter,) = letters.all()
    heal(postgres_url)
    assert main(["dead", "replay", "--all"]) == 0
    # As if the command had been killed before it deleted the letter, and then been repeated.
    writer.backlog.append([(letter.shard, letter.sealed)])
    drain_all(writer)
    assert read(poisoned) == ["1", "3", "666"]
    assert list(letters.all()) == []
    assert main(["dead", "show", letter.letter_id]) == 1
    assert main(["dead", "show", "nonsense"]) == 2


@pytest.mark.usefixtures("command_environment", "poisoned")
def test_a_replay_of_all_letters_ends_although_a_letter_fails_again(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers may set it aside again while the command still reads letters."""
    replayed = 0
    record = CommandStores.audit

    def audit(stores: CommandStores, event: AuditEvent) -> None:
        nonlocal replayed
        replayed += 1
        assert replayed == 1
        record(stores, event)
        drain_all(writer)

    monkeypatch.setattr(CommandStores, "audit", audit)
    monkeypatch.setattr("iot_stores.stream_entries._PAGE", 1)
    assert main(["dead", "replay", "--all"]) == 0
    assert len(list(DeadLetters(writer.redis, KEYS).all())) == 1


@pytest.mark.usefixtures("command_environment", "poisoned")
@pytest.mark.parametrize("action", ["drop", "replay"])
def test_a_letter_stays_if_the_action_can_not_be_recorded(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    def refuse(*_: object) -> None:
        raise psycopg.OperationalError("refused by a test")

    monkeypatch.setattr(CommandStores, "audit", refuse)
    assert main(["dead", action, "--all"]) == 1
    assert len(list(DeadLetters(writer.redis, KEYS).all())) == 1


@pytest.mark.usefixtures("command_environment")
def test_a_dropped_letter_is_deleted_and_audited(poisoned: FlaskClient, writer: Writer) -> None:
    (letter,) = DeadLetters(writer.redis, KEYS).all()
    assert main(["dead", "drop", letter.letter_id]) == 0
    assert list(DeadLetters(writer.redis, KEYS).all()) == []
    lines = [describe(line) for _, _, line in writer.audit.latest(writer.postgres(), 9)]
    assert any("is dropped" in line for line in lines)
    assert read(poisoned) == ["1", "3"]


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize("action", ["drop", "replay"])
def test_a_letter_stays_while_its_entry_is_in_the_backlog(
    client: FlaskClient,
    writer: Writer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    action: str,
) -> None:
    """The drain that set it aside failed: the next one would make the letter again."""
    monkeypatch.setattr("iot_tools.cli.dead_letters._DRAIN_SECONDS", 0)
    monkeypatch.setattr("iot_api.status.letter_actions.WAIT_SECONDS", 0)
    letters = DeadLetters(writer.redis, KEYS)
    writer.backlog.append([(2, b"no entry")])
    (waiting,) = read_waiting(writer.backlog, 2, max_bytes=1)
    letters.add(2, waiting, "a reason")
    (letter,) = letters.all()
    assert main(["dead", action, "--all"]) == 1
    assert "its entry is still in the backlog" in capsys.readouterr().out
    orders = writer.letter_orders
    client.delete(f"/api/dead-letters/{letter.letter_id}")
    orders.run(writer.postgres)
    assert list(letters.all()) == [letter]
    drain_all(writer)
    assert list(letters.all()) == [letter], "one entry makes one letter"
    orders.run(writer.postgres)
    assert list(letters.all()) == []
    drain_all(writer)
    assert list(letters.all()) == []


@pytest.mark.usefixtures("command_environment", "writer")
@pytest.mark.parametrize("command", ["dead", "held"])
def test_an_empty_list_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "list"]) == 0
    what = "dead letters" if command == "dead" else "held entries"
    assert capsys.readouterr() == ("", f"no {what}\n")
