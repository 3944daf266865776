"""A rotation of the master keys encrypts the audit log again, and leaves the chain as it is."""

import base64
import hmac
import json
import struct
from dataclasses import dataclass

import psycopg
import pytest

from integration.writer.audit_records import chain, record
from iot_cipher.audit_link import ChainedRecord, make_link
from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import Keyring, new_keyring_text, parse_keyring
from iot_cipher.keyring_changes import with_new_key, with_primary, without_key
from iot_stores.audit import UNREADABLE, AuditLog
from iot_stores.audit_chain import current_head
from iot_stores.audit_check import AuditFaultError, check_audit
from iot_stores.audit_reseal import count_readable, renew_links, reseal_audit
from iot_stores.postgres import Connection
from iot_writer.writer import Writer

LINES = ["event 0", "event 1", "event 2"]


@dataclass
class Log:
    """An audit log of three chained records under master key 1. Key 2 is primary now."""

    writer: Writer
    postgres: Connection
    url: str
    old: Keyring
    both_text: str

    @property
    def both(self) -> Keyring:
        return parse_keyring(self.both_text)

    def retire(self) -> Keyring:
        """Retire key 1 as `keys retire` does, and return the keyring."""
        head = current_head(self.postgres)
        assert head is not None
        return parse_keyring(without_key(self.both_text, 1, sequence=head[0], link=head[1]))

    def verify(self, keyring: Keyring) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            check_audit(connection, keyring, self.writer.stores.audit_head.read())

    def lines(self, keyring: Keyring) -> list[str]:
        return [line for _, _, line in AuditLog(lambda: keyring).latest(self.postgres, 100)]

    def records(self) -> list[tuple[int, bytes, bytes]]:
        found = self.postgres.execute(
            "SELECT id, timestamptz_send(at), sealed FROM audit_log ORDER BY id"
        )
        return found.fetchall()  # type: ignore[return-value]


@pytest.fixture
def log(writer: Writer, postgres_url: str, postgres: Connection) -> Log:
    old = new_keyring_text()
    record(writer, len(LINES), parse_keyring(old))
    chain(writer, parse_keyring(old))
    both = with_primary(with_new_key(old)[0], 2)
    return Log(writer, postgres, postgres_url, parse_keyring(old), both)


def links(log: Log) -> list[tuple[object, ...]]:
    return log.postgres.execute("SELECT * FROM audit_chain ORDER BY sequence").fetchall()


def test_after_the_old_key_is_retired_the_log_is_whole_and_readable(log: Log) -> None:
    before = links(log)
    record(log.writer, 1, log.old)  # waits for its link
    assert reseal_audit(log.postgres, log.both) == (len(LINES) + 1, 0)
    assert links(log) == before
    chain(log.writer, log.both)
    retired = log.retire()
    log.verify(retired)
    record(log.writer, 1, retired)
    chain(log.writer, retired)
    log.verify(retired)
    assert log.lines(retired) == [*LINES, "event 0", "event 0"]


def test_the_old_keyring_opens_no_record(log: Log) -> None:
    assert log.lines(log.old) == LINES
    reseal_audit(log.postgres, log.both)
    assert log.lines(log.old) == [UNREADABLE] * len(LINES)
    with pytest.raises(AuditFaultError, match=r"record 1 .* can't be decrypted: .* master key 2$"):
        log.verify(log.old)  # not "was changed or moved": nobody changed the record


def test_the_log_is_whole_at_each_step_of_a_reseal_that_is_killed(log: Log) -> None:
    saved = log.records()
    reseal_audit(log.postgres, log.both)
    for record_id, _, sealed in saved:  # as if the process had been killed before this record
        log.postgres.execute("UPDATE audit_log SET sealed = %s WHERE id = %s", (sealed, record_id))
        log.verify(log.both)
        assert log.lines(log.both) == LINES
    assert count_readable(log.postgres, log.both, 1) == len(LINES)
    assert reseal_audit(log.postgres, log.both) == (len(LINES), 0)
    assert reseal_audit(log.postgres, log.both) == (0, 0)
    assert count_readable(log.postgres, log.both, 1) == 0


def test_a_damaged_record_is_found_before_and_after_the_rotation(log: Log) -> None:
    log.postgres.execute("UPDATE audit_log SET sealed = set_byte(sealed, 20, 0) WHERE id = 2")
    assert reseal_audit(log.postgres, log.both) == (2, 1)
    for keyring in (log.both, log.retire()):
        with pytest.raises(AuditFaultError, match="record 2"):
            log.verify(keyring)


def test_a_copy_from_before_the_rotation_is_found(log: Log) -> None:
    """Its first nonce stays, even when the copy itself is encrypted again."""
    (_, _, old), *_ = log.records()
    reseal_audit(log.postgres, log.both)
    log.postgres.execute("INSERT INTO audit_log (sealed) VALUES (%s)", (old,))
    chain(log.writer, log.both)
    reseal_audit(log.postgres, log.both)
    with pytest.raises(AuditFaultError, match=r"record 4 .* is a copy of another record"):
        log.verify(log.retire())


def forge(log: Log, count: int) -> None:
    """Replace the chain by one that a thief of the old keyring made, with `count` records."""
    head = BEFORE_FIRST
    log.postgres.execute("TRUNCATE audit_chain, audit_pending, audit_log RESTART IDENTITY")
    record(log.writer, count, log.both)
    for sequence, (record_id, at, _) in enumerate(log.records(), 1):
        line = f"event {sequence - 1}".encode()
        head = make_link(log.old, head, ChainedRecord(sequence, record_id, at, line))
        log.postgres.execute(
            "INSERT INTO audit_chain VALUES (%s, %s, %s)", (sequence, record_id, head)
        )
    log.postgres.execute("TRUNCATE audit_pending")
    log.writer.stores.audit_head.publish(current_head(log.postgres))


@pytest.mark.parametrize(
    ("count", "fault"),
    [
        (2, "the chain ends at link 2, but had 3 links when master key 1 was retired"),
        (3, "does not have the link that it had when master key 1 was retired"),
        (4, "does not have the link that it had when master key 1 was retired"),
    ],
)
def test_a_thief_of_the_retired_key_makes_no_valid_chain(log: Log, count: int, fault: str) -> None:
    """Even if the thief writes to Postgres and Redis, and knows a line of the new key."""
    reseal_audit(log.postgres, log.both)
    retired = log.retire()
    log.verify(retired)
    forge(log, count)
    with pytest.raises(AuditFaultError, match=fault):
        log.verify(retired)


def test_a_retired_key_continues_no_chain(log: Log) -> None:
    reseal_audit(log.postgres, log.both)
    retired = log.retire()
    record(log.writer, 1, retired)
    chain(log.writer, log.old)  # a thief's process; it can't open the record
    assert current_head(log.postgres) == log.writer.stores.audit_head.read()
    log.verify(retired)
    (*_, (record_id, at, _)) = log.records()
    head = current_head(log.postgres)
    assert head is not None
    link = make_link(log.old, head.link, ChainedRecord(4, record_id, at, b"event 0"))
    log.postgres.execute("INSERT INTO audit_chain VALUES (4, %s, %s)", (record_id, link))
    with pytest.raises(
        AuditFaultError, match="master key 1, although this key was retired earlier, after link"
    ):
        log.verify(retired)


def test_a_record_of_a_key_that_the_writer_lacks_waits(log: Log) -> None:
    added = with_primary(with_new_key(log.both_text)[0], 3)
    record(log.writer, 1, parse_keyring(added))
    record(log.writer, 1, log.both)
    assert chain(log.writer, log.both) == 1
    assert chain(log.writer, parse_keyring(added)) == 1
    log.verify(parse_keyring(added))


def test_the_keyring_holds_no_part_of_a_retired_key_but_its_chain_key(log: Log) -> None:
    master = json.loads(log.both_text)["keys"]["1"]
    text = without_key(log.both_text, 1, sequence=0, link=BEFORE_FIRST)
    assert master not in text
    derived = log.old.audit_key(1), log.old.wrap_key(1), log.old.transit_key(1)
    assert not any(base64.b64encode(key).decode() in text for key in derived)


def make_links_of_version_1(log: Log) -> None:
    """Replace the links by those of a writer of an earlier version, and publish the last one."""
    link = BEFORE_FIRST
    head = b"\1" + (1).to_bytes(4, "big")
    for sequence, (record_id, at, sealed) in enumerate(log.records(), 1):
        message = head + link + struct.pack(">qq", sequence, record_id) + at + sealed
        link = head + hmac.digest(log.old.chain_key(1), message, "sha256")
        log.postgres.execute(
            "UPDATE audit_chain SET link = %s WHERE sequence = %s", (link, sequence)
        )
    log.writer.stores.audit_head.publish(current_head(log.postgres))


def test_a_rotation_replaces_links_of_version_1(log: Log) -> None:
    make_links_of_version_1(log)
    record(log.writer, 1, log.old)
    chain(log.writer, log.both)
    log.verify(log.both)
    head = log.writer.stores.audit_head
    assert reseal_audit(log.postgres, log.both) == (1, 0)  # the others would lose their links
    log.verify(log.both)
    assert renew_links(log.postgres, log.both, head) == len(LINES) + 1
    assert reseal_audit(log.postgres, log.both) == (len(LINES), 0)
    assert head.read() == current_head(log.postgres)
    log.verify(log.retire())
    assert renew_links(log.postgres, log.both, head) == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit_log SET at = at + interval '1 microsecond' WHERE id = 2",
        "UPDATE audit_log SET sealed = (SELECT sealed FROM audit_log WHERE id = 3) WHERE id = 2",
        "DELETE FROM audit_log WHERE id = 2",
        "DELETE FROM audit_chain WHERE sequence = 2",
        "DELETE FROM audit_chain WHERE sequence = 3",
    ],
)
def test_damage_is_found_and_not_hidden_by_new_links(log: Log, damage: str) -> None:
    make_links_of_version_1(log)
    log.postgres.execute(damage)
    before = links(log)
    with pytest.raises(AuditFaultError):
        log.verify(log.both)
    with pytest.raises(AuditFaultError, match="iot-sensor audit verify"):
        renew_links(log.postgres, log.both, log.writer.stores.audit_head)
    assert links(log) == before
