"""Data changed in the database is detected, counted and answered as an error, never returned."""

import psycopg
import pytest
from redis import Redis

from integration.api.asking import Api, assert_error, row, sample
from integration.api.conftest import MakeApi
from iot_writer.writer import Writer
from support.draining import drain_all

PATHS = ("", "/0", "/0/100", "/last/1", "/last/100")


@pytest.fixture
def filled(api: Api, writer: Writer) -> Api:
    """An API with two segments of one vault and one segment of another vault."""
    for time in (0, 10):
        api.put([row("one", relative_time=time + n, interrogator_time=time + n) for n in range(3)])
        api.put([row("two", relative_time=time, interrogator_time=time)])
        drain_all(writer)
    return api


def vault_of(postgres: psycopg.Connection, readings: int) -> str:
    found = postgres.execute(
        "SELECT vault_id::text FROM segments GROUP BY 1 HAVING sum(count) = %s", (readings,)
    ).fetchone()
    assert found is not None
    return str(found[0])


@pytest.mark.parametrize(
    "change",
    [
        "payload = set_byte(payload, 0, get_byte(payload, 0) # 1)",  # format
        "payload = set_byte(payload, 1, get_byte(payload, 1) # 1)",  # salt
        "payload = set_byte(payload, 17, get_byte(payload, 17) # 128)",  # nonce
        "payload = set_byte(payload, 29, get_byte(payload, 29) # 1)",  # ciphertext
        "payload = set_byte(payload, 60, get_byte(payload, 60) # 1)",
        "payload = substr(payload, 1, length(payload) - 1)",
        "payload = ''",
        "payload = payload || '\\x00'",
        "count = count + 1",
        "last_id = last_id + 256",
        "relative_max = relative_max + 1",
        "interrogator_min = interrogator_min - 1",
        "received_max = received_max + 1",
        "shard = shard + 1",
    ],
)
def test_a_changed_segment_is_an_error(
    filled: Api, postgres: psycopg.Connection, change: str
) -> None:
    changed = postgres.execute(
        f"UPDATE segments SET {change} WHERE vault_id = %s AND relative_min = 10",  # noqa: S608
        (vault_of(postgres, 6),),
    )
    assert changed.rowcount == 1
    for path in PATHS:
        before = sample("iot_damaged_total", what="segment")
        answer = filled.post(f"/api/iot{path}", "one")
        error = assert_error(answer, 500, "damaged")
        assert "data" not in error
        assert sample("iot_damaged_total", what="segment") == before + 1
        assert len(filled.read(path, "two")) == (1 if path == "/last/1" else 2)
    # Reads that do not need the segment still succeed.
    assert len(filled.read("/0/5", "one")) == 3


def test_a_segment_moved_to_another_vault_is_an_error(
    filled: Api, postgres: psycopg.Connection
) -> None:
    """Write access to the database does not give access to the readings of others."""
    mine, another_s = vault_of(postgres, 2), vault_of(postgres, 6)
    moved = postgres.execute(
        "UPDATE segments SET vault_id = %s WHERE vault_id = %s", (mine, another_s)
    )
    assert moved.rowcount == 2
    for path in PATHS:
        assert_error(filled.post(f"/api/iot{path}", "two"), 500, "damaged")


def test_payloads_swapped_within_a_vault_are_an_error(
    filled: Api, postgres: psycopg.Connection
) -> None:
    postgres.execute(
        """
        UPDATE segments SET payload = other.payload FROM segments AS other
        WHERE segments.vault_id = %s AND other.vault_id = segments.vault_id
          AND other.first_id <> segments.first_id
        """,
        (vault_of(postgres, 6),),
    )
    for path in (*PATHS, "/0/5"):
        assert_error(filled.post(f"/api/iot{path}", "one"), 500, "damaged")
    assert len(filled.read(password="two")) == 2


@pytest.mark.parametrize(
    "change",
    [
        "wrapped_key = set_byte(wrapped_key, 0, 9)",
        "wrapped_key = set_byte(wrapped_key, 4, 9)",
        "wrapped_key = set_byte(wrapped_key, 30, get_byte(wrapped_key, 30) # 1)",
        "wrapped_key = ''",
        "salt = set_byte(salt, 0, get_byte(salt, 0) # 1)",
        "vault_id = gen_random_uuid()",
        "scrypt_log2_n = 11",
    ],
)
def test_a_changed_vault_record_is_an_error(
    filled: Api,
    make_api: MakeApi,
    postgres: psycopg.Connection,
    redis: "Redis",
    change: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The vault is not read or written: readings under an unrecoverable key would be lost."""
    changed = postgres.execute(
        f"UPDATE vaults SET {change} WHERE vault_id = %s RETURNING vault_id::text",  # noqa: S608
        (vault_of(postgres, 6),),
    ).fetchone()
    assert changed is not None
    redis.delete(*redis.keys("iot:vault:*"))
    api = make_api()  # this process has not opened the vault
    before = sample("iot_damaged_total", what="vault")
    rejected = sample("iot_puts_rejected_total", reason="damaged")
    assert_error(api.post(password="one"), 500, "damaged")
    assert_error(api.put(row("one")), 500, "damaged")
    assert sample("iot_damaged_total", what="vault") == before + 2
    assert caplog.messages.count(f"vault {changed[0]} can't be opened") == 2
    assert sample("iot_puts_rejected_total", reason="damaged") == rejected + 1
    assert len(api.read(password="two")) == 2
    assert len(filled.read(password="one")) == 6


def test_the_vault_record_of_another_password_is_an_error(
    filled: Api, make_api: MakeApi, postgres: psycopg.Connection, redis: "Redis"
) -> None:
    """With swapped lookups each password finds a record that it can't open."""
    postgres.execute("ALTER TABLE vaults DROP CONSTRAINT vaults_lookup_key")
    postgres.execute(
        """
        UPDATE vaults SET lookup = other.lookup FROM vaults AS other
        WHERE other.vault_id <> vaults.vault_id
        """
    )
    redis.delete(*redis.keys("iot:vault:*"))
    api = make_api()
    for password in ("one", "two"):
        assert_error(api.post(password=password), 500, "damaged")
    assert len(filled.read(password="one")) == 6


def test_a_changed_audit_line_is_marked(
    api: Api, writer: Writer, postgres: psycopg.Connection
) -> None:
    for line in ("first", "second"):
        writer.audit.record(writer.postgres(), line)
    postgres.execute(
        "UPDATE audit_log SET sealed = set_byte(sealed, 20, get_byte(sealed, 20) # 1) WHERE id = 1"
    )
    lines = api.ask("GET", "/api/audit").get_json()["data"]
    assert [line["log"] for line in lines] == ["(this record can't be decrypted)", "second"]
    assert all(set(line) == {"id", "absolute_timestamp", "log"} for line in lines)
