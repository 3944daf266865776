"""`audit verify` finds every change that an attacker with the database makes to the audit log.

The first records are from before a rotation of the master keys: their links have a retired key.
"""

from collections.abc import Callable
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from integration.writer.audit_records import chain, record, unchanged_afterwards
from iot_cipher.keyring import Keyring, new_keyring_text, parse_keyring
from iot_cipher.keyring_changes import with_new_key, with_primary, without_key
from iot_stores.audit_chain import current_head
from iot_stores.audit_check import AuditFaultError, check_audit
from iot_stores.audit_head import AuditHead
from iot_stores.audit_reseal import reseal_audit
from iot_stores.postgres import Connection
from iot_writer.writer import Writer

RECORDS = 8
OLD_RECORDS = 4
PENDING = 2
"""Records of the log that have no link yet."""

CHAINED = st.integers(1, RECORDS)
ANY = st.integers(1, RECORDS + PENDING)
Change = Callable[[Connection], None]


@dataclass
class Log:
    """An audit log whose head is published."""

    writer: Writer
    attacker: Connection
    url: str
    published: AuditHead
    keyring: Keyring

    def verify(self) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            check_audit(connection, self.keyring, self.published)


@pytest.fixture
def log(writer: Writer, postgres_url: str, postgres: Connection) -> Log:
    text = new_keyring_text()
    record(writer, OLD_RECORDS, parse_keyring(text))
    assert chain(writer, parse_keyring(text)) == OLD_RECORDS
    text = with_primary(with_new_key(text)[0], 2)
    assert reseal_audit(writer.postgres(), parse_keyring(text)) == (OLD_RECORDS, 0)
    old_head = current_head(writer.postgres())
    assert old_head is not None
    keyring = parse_keyring(without_key(text, 1, sequence=old_head.sequence, link=old_head.link))
    record(writer, RECORDS - OLD_RECORDS, keyring)
    assert chain(writer, keyring) == RECORDS - OLD_RECORDS
    published = writer.stores.audit_head.read()
    assert published is not None
    record(writer, PENDING, keyring)
    return Log(writer, postgres, postgres_url, published, keyring)


def run(statement: str, *values: object) -> Change:
    """A change by one statement, which must find a row."""

    def change(connection: Connection) -> None:
        assert connection.execute(statement.encode(), values).rowcount > 0, statement

    return change


def flip(table: str, column: str, key: str, number: int, place: float, bit: int) -> Change:
    at = f"(%s * (octet_length({column}) - 1))::int * 8 + %s"
    flipped = f"set_bit({column}, {at}, 1 - get_bit({column}, {at}))"
    statement = f"UPDATE {table} SET {column} = {flipped} WHERE {key} = %s"  # noqa: S608
    return run(statement, place, bit, place, bit, number)


PLACE, BIT = st.floats(0, 1), st.integers(0, 7)
CHANGED = st.one_of(
    st.builds(flip, st.just("audit_log"), st.just("sealed"), st.just("id"), ANY, PLACE, BIT),
    st.builds(
        flip, st.just("audit_chain"), st.just("link"), st.just("sequence"), CHAINED, PLACE, BIT
    ),
    st.builds(
        lambda number, length: run(
            "UPDATE audit_log SET sealed = substr(sealed, 1, %s) WHERE id = %s", length, number
        ),
        ANY,
        st.integers(0, 30),
    ),
    st.builds(
        lambda number, by: run(
            "UPDATE audit_log SET at = at + %s * interval '1 microsecond' WHERE id = %s", by, number
        ),
        CHAINED,
        st.integers(-(2**40), 2**40).filter(bool),
    ),
    CHAINED.map(lambda number: run("UPDATE audit_log SET at = 'infinity' WHERE id = %s", number)),
    st.builds(
        lambda number, to: run(
            "WITH moved AS (DELETE FROM audit_log WHERE id = %s RETURNING at, sealed) "
            "INSERT INTO audit_log (id, at, sealed) OVERRIDING SYSTEM VALUE "
            "SELECT %s, at, sealed FROM moved",
            number,
            RECORDS + PENDING + to,
        ),
        ANY,
        st.integers(1, 1000),
    ),
    st.builds(
        lambda number, to: run(
            "UPDATE audit_chain SET sequence = %s WHERE sequence = %s", to, number
        ),
        CHAINED,
        st.one_of(st.integers(RECORDS + 1, 2**63 - 1), st.integers(-(2**63), 0)),
    ),
)
DELETED = st.one_of(
    ANY.map(lambda number: run("DELETE FROM audit_log WHERE id = %s", number)),
    CHAINED.map(lambda number: run("DELETE FROM audit_chain WHERE sequence = %s", number)),
    CHAINED.map(
        lambda number: run(
            "WITH gone AS (DELETE FROM audit_log WHERE id = %s RETURNING id) "
            "DELETE FROM audit_chain WHERE record_id IN (SELECT id FROM gone)",
            number,
        )
    ),
    st.integers(RECORDS + 1, RECORDS + PENDING).map(
        lambda number: run("DELETE FROM audit_pending WHERE record_id = %s", number)
    ),
)


def cut_tail(last: int) -> Change:
    return run(
        "WITH gone AS (DELETE FROM audit_chain WHERE sequence > %s RETURNING record_id) "
        "DELETE FROM audit_log WHERE id IN (SELECT record_id FROM gone)",
        last,
    )


def remake(without: int) -> Change:
    """Let writers chain all records again, without one of them."""
    return run(
        "WITH gone AS (DELETE FROM audit_chain), less AS (DELETE FROM audit_log WHERE id = %s) "
        "INSERT INTO audit_pending SELECT id FROM audit_log WHERE id <> %s ON CONFLICT DO NOTHING",
        without,
        without,
    )


TAIL_CUT = st.integers(0, RECORDS - 1).map(cut_tail)
REMADE = CHAINED.map(remake)


def insert(number: int, sealed: bytes | int, seconds: int, around: bool) -> Change:
    """Insert a record: a copy of another one, or any bytes."""

    source = "(SELECT sealed FROM audit_log WHERE id = %s)" if isinstance(sealed, int) else "%s"
    columns = f"%s, now() - %s * interval '1 second', {source}"
    statement = f"INSERT INTO audit_log (id, at, sealed) OVERRIDING SYSTEM VALUE VALUES ({columns})"  # noqa: S608

    def change(connection: Connection) -> None:
        with connection.transaction():
            if around:
                connection.execute("SET LOCAL session_replication_role = replica")
            run(statement, number, seconds, sealed)(connection)

    return change


INSERTED = st.builds(
    insert,
    st.one_of(st.integers(-1000, 0), st.integers(RECORDS + PENDING + 1, 2**62)),
    st.one_of(ANY, st.binary(max_size=80)),
    st.integers(-100_000, 100_000),
    st.booleans(),
)
LINK_INSERTED = st.builds(
    lambda sequence, record_id, link: run(
        "INSERT INTO audit_chain VALUES (%s, %s, %s)", sequence, record_id, link
    ),
    st.one_of(st.integers(-1000, 0), st.just(RECORDS + 1), st.integers(RECORDS + 2, 2**62)),
    st.one_of(st.integers(RECORDS + 1, RECORDS + PENDING), st.integers(100, 200)),
    st.binary(max_size=40),
)


def swap(table: str, column: str, key: str) -> st.SearchStrategy[Change]:
    def statement(pair: list[int]) -> Change:
        one, other = pair
        return run(
            f"UPDATE {table} SET {column} = other.{column} FROM {table} AS other "  # noqa: S608 -- constants
            f"WHERE ({table}.{key}, other.{key}) IN ((%s, %s), (%s, %s))",
            one, other, other, one,
        )  # fmt: skip

    return st.lists(CHAINED, min_size=2, max_size=2, unique=True).map(statement)


REORDERED = st.one_of(swap("audit_log", "sealed", "id"), swap("audit_chain", "link", "sequence"))


@given(
    change=st.one_of(CHANGED, DELETED, TAIL_CUT, REMADE, INSERTED, LINK_INSERTED, REORDERED),
    chained=st.booleans(),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_change_is_found(log: Log, change: Change, chained: bool) -> None:
    """Also after a writer has continued the chain."""
    # All examples share the log, and a record may be pending for a minute only.
    run("UPDATE audit_log SET at = now() WHERE id > %s", RECORDS)(log.attacker)
    log.verify()
    with unchanged_afterwards(log.attacker):
        change(log.attacker)
        if chained:
            chain(log.writer, log.keyring)
        with pytest.raises(AuditFaultError):
            log.verify()
        # The evidence stays: a writer publishes no new head instead of one that was cut off.
        published = log.writer.stores.audit_head.read()
        assert published is not None
        assert published.sequence >= log.published.sequence
        log.writer.stores.audit_head.publish(log.published)


def test_a_record_deleted_before_it_is_chained_leaves_no_trace(log: Log) -> None:
    """The limit that docs/audit-log.md states: a record has no link for up to two seconds."""
    run("DELETE FROM audit_log WHERE id = %s", RECORDS + 1)(log.attacker)
    with pytest.raises(AuditFaultError, match="record 9 was deleted before a writer chained it"):
        log.verify()
    run("DELETE FROM audit_pending WHERE record_id = %s", RECORDS + 1)(log.attacker)
    log.verify()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (cut_tail(RECORDS - 1), "link 8 differs from the published head"),
        (
            remake(1),
            r"record 5 \(link 4\) does not have the link that it had when master key 1 was retired",
        ),
    ],
    ids=["cut", "made again"],
)
def test_a_chain_that_writers_continued_has_other_links(
    log: Log, change: Change, fault: str
) -> None:
    change(log.attacker)
    chain(log.writer, log.keyring)
    with pytest.raises(AuditFaultError, match=fault):
        log.verify()
