"""API processes add events to the audit log with a function of the database."""

import json

import psycopg
import pytest

from iot_cipher.encryption import encrypt
from iot_models.audit_event import AuditKind, audit_event, describe, parse_event
from iot_models.errors import DecryptionError, UnavailableError
from iot_stores import audit
from iot_stores.audit import AuditLog
from iot_writer.schema import migrate
from iot_writer.writer import Writer


@pytest.fixture
def log(writer: Writer) -> AuditLog:
    return AuditLog(writer.keys.current)


def _lines(log: AuditLog, connection: psycopg.Connection) -> list[str]:
    return [line for _, _, line in log.latest(connection, 100)]


def test_an_event_is_added_in_the_transaction(log: AuditLog, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        log.append(connection, audit_event(AuditKind.VAULT_ERASED, vault="never"))
        connection.rollback()
        log.append(connection, audit_event(AuditKind.VAULT_ERASED, vault="v"))
        connection.commit()
        (line,) = _lines(log, connection)
        (pending,) = connection.execute("SELECT count(*) FROM audit_pending").fetchone() or (0,)
    parsed = parse_event(line)
    assert parsed is not None
    assert (parsed["event"], parsed["vault"]) == ("vault_erased", "v")
    assert pending == 1


def test_a_forged_record_that_can_not_be_encoded_stops_nothing(
    log: AuditLog, writer: Writer, postgres: psycopg.Connection
) -> None:
    """A process that was taken over has the key of the audit log."""
    keys = writer.keys.current()
    header = audit._HEADER.pack(audit.FORMAT, keys.primary_id)  # noqa: SLF001
    context = header + audit._CONTEXT  # noqa: SLF001
    sealed = header + encrypt(keys.audit_key(keys.primary_id), b"\xff", context)
    postgres.execute("SELECT record_audit_event(%s)", (sealed,))
    assert _lines(log, postgres) == [audit.UNREADABLE]
    with pytest.raises(DecryptionError, match="is not text"):
        audit.reseal_record(keys, sealed)
    surrogate = '{"event":"read","a":"\\ud800"}'
    assert (parse_event(surrogate), describe(surrogate)) == (None, surrogate)


def test_a_record_has_the_time_and_the_order_of_postgres(
    log: AuditLog, postgres: psycopg.Connection
) -> None:
    for number in range(3):
        log.append(postgres, audit_event(AuditKind.READ, readings=number))
    rows = log.latest(postgres, 10)
    assert [json.loads(line)["readings"] for _, _, line in rows] == [0, 1, 2]
    assert [number for number, _, _ in rows] == [1, 2, 3]


def test_a_database_without_the_function_says_what_to_do(
    log: AuditLog, postgres_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute("DROP FUNCTION record_audit_event")
    with pytest.raises(UnavailableError, match="iot-sensor migrate"):
        log.append(postgres, audit_event(AuditKind.READ))
    migrate(postgres_url)
    migrate(postgres_url)
    log.append(postgres, audit_event(AuditKind.READ))
    assert len(_lines(log, postgres)) == 1


def test_sentences_of_earlier_versions_stay_readable(
    log: AuditLog, writer: Writer, postgres: psycopg.Connection
) -> None:
    log.record(writer.postgres(), "entry 1-0 of shard 0 was set aside: it can't be opened")
    assert _lines(log, postgres) == ["entry 1-0 of shard 0 was set aside: it can't be opened"]


@pytest.mark.parametrize("size", [0, 32, 16_385])
def test_what_is_no_record_is_refused(size: int, postgres: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.RaiseException):
        postgres.execute("SELECT record_audit_event(%s)", (bytes(size),))
