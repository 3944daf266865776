"""The stores refuse all other commands to the users of production."""

from typing import cast

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege
from redis.exceptions import NoPermissionError

from iot_stores.compaction_orders import CompactionOrders
from iot_stores.postgres import OLDEST_REVISION
from iot_writer.schema import GRANTS, migrate
from support.keys import KEYS
from support.recorded_version import FIXTURES, RecordedVersion
from support.waiting import wait_until
from system.rights.stores import Database, RedisWithUsers

VAULT = "00000000-0000-0000-0000-000000000001"
INSERT_VAULT = f"""
    INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, lookup_format)
    VALUES ('{VAULT}', 'lookup', 'salt', 14, 'wrapped key', 2)
"""  # noqa: S608 -- a constant
INSERT_SEGMENT = """
    INSERT INTO segments SELECT gen_random_uuid(), 1, 1, 5, 5, 0, 0, 0, 0, 0, 1, 'payload'
"""
FUNCTION = "CREATE FUNCTION f() RETURNS int LANGUAGE {} AS $$ {} $$"

NEITHER = [
    "DROP TABLE vaults",
    "DELETE FROM vaults",
    "TRUNCATE vaults",
    "UPDATE audit_log SET sealed = ''",
    "DELETE FROM audit_log",
    "TRUNCATE audit_log",
    "UPDATE audit_chain SET link = ''",
    "DELETE FROM audit_chain",
    "TRUNCATE audit_chain",
    "INSERT INTO audit_pending VALUES (1)",
    f"INSERT INTO erased_vaults VALUES ('{VAULT}')",  # noqa: S608 - a constant
    "UPDATE erased_vaults SET erased_at = now()",
    "DELETE FROM erased_vaults",
    "ALTER TABLE vaults DISABLE TRIGGER refuse_erased_vault",
    "ALTER TABLE audit_log DISABLE TRIGGER note_pending_audit",
    "UPDATE alembic_version SET version_num = '9999'",
    "UPDATE vault_lookups SET fast_lookups = 'created'",
    "UPDATE vault_lookups SET costs = ARRAY[10]",
    "DELETE FROM vault_lookups",
    "INSERT INTO vault_lookups (fast_lookups) VALUES ('created')",
    "ALTER TABLE vaults DISABLE TRIGGER check_new_vault",
    "INSERT INTO alembic_version VALUES ('9999')",
    "CREATE TABLE public.mine ()",
    "CREATE SCHEMA mine",
    "CREATE TEMPORARY TABLE mine ()",
    "CREATE ROLE mine",
    "ALTER ROLE iot_migration PASSWORD 'x'",
    "SET ROLE iot_migration",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT rolpassword FROM pg_authid",
    FUNCTION.format("sql", "SELECT 1"),
    FUNCTION.format("plpgsql", "BEGIN RETURN 1; END"),
    "DO $$ BEGIN END $$",
]
REFUSED = {
    "iot_api": [
        *NEITHER,
        INSERT_SEGMENT,
        "UPDATE vaults SET vault_id = gen_random_uuid()",  # could be the id of an erased vault
        "UPDATE segments SET payload = ''",
        "DELETE FROM segments",
        "DROP TABLE segments",
        "SELECT FROM segments FOR UPDATE",
        "SELECT FROM ingest_offsets",
        "UPDATE ingest_offsets SET next_id = 0",
        "UPDATE ingest_sessions SET high = 0",
        "DELETE FROM ingest_sessions",
        "INSERT INTO audit_log (sealed) VALUES ('')",
        "INSERT INTO audit_chain VALUES (1, 1, '')",
        "DELETE FROM audit_pending",
        "SELECT FROM audit_unchained",
        "UPDATE erased_vaults SET deleted_at = now()",
        "UPDATE erased_vaults SET lookups = NULL",
        "SELECT FROM segments FOR KEY SHARE",
        "SELECT FROM iot_writer.partition",
        "SELECT end_fast_lookups('0')",
        "SELECT forget_unused_lookups()",
        "CREATE TABLE iot_writer.mine ()",
        "SET ROLE iot_writer",
    ],
    "iot_writer": [
        *NEITHER,
        INSERT_VAULT,
        "SELECT * FROM vaults",
        "SELECT lookup FROM vaults",
        "SELECT salt FROM vaults",
        "SELECT wrapped_key FROM vaults",
        "SELECT created_at FROM vaults",
        "UPDATE vaults SET lookup = ''",
        "UPDATE vaults SET wrapped_key = ''",
        "UPDATE vaults SET created_at = now() RETURNING wrapped_key",
        "COPY vaults TO STDOUT",
        "SELECT FROM audit_log",
        "SELECT record_audit_event(convert_to(repeat('x', 40), 'utf8'))",
        "INSERT INTO audit_log (sealed, at) VALUES ('', '2020-01-01')",
        "DELETE FROM ingest_offsets",
        "CREATE INDEX ON vaults (lookup)",
        "SELECT FROM vault_lookups",
        "SELECT raise_lookup_cost(20::smallint)",
        "SELECT lookups FROM erased_vaults",
        f"SELECT erase_vault('{VAULT}', ARRAY['lookup'::bytea])",
        f"SELECT forget_erased_lookups('{VAULT}')",
        "SET ROLE iot_api",
    ],
}
ALLOWED = {
    "iot_api": [
        "SELECT FROM vaults",
        "UPDATE vaults SET scrypt_log2_n = 15",
        "SELECT payload FROM segments",
        "SELECT FROM ingest_sessions",
        "SELECT FROM audit_log",
        "SELECT record_audit_event(convert_to(repeat('x', 40), 'utf8'))",
        "SELECT FROM audit_chain",
        "SELECT FROM audit_pending",
        "SELECT FROM alembic_version",
        "SELECT FROM vault_lookups",
        "SELECT raise_lookup_cost(15::smallint)",
        "UPDATE vaults SET lookup = '', salt = '', wrapped_key = '', lookup_format = 2",
        "SELECT vault_id, lookups, erased_at FROM erased_vaults",
        f"SELECT erase_vault('{VAULT}', ARRAY['unknown'::bytea])",
        f"SELECT forget_erased_lookups('{VAULT}')",
        f"SELECT erase_segments('{VAULT}', '{{1}}', '{{5}}', ARRAY['unknown'::bytea])",
        f"SELECT replace_segment('{VAULT}', 1, 5, 'unknown', ARRAY[1], 'payload')",
    ],
    "iot_writer": [
        INSERT_SEGMENT,
        "SELECT payload FROM segments",
        "DELETE FROM segments",
        f"SELECT FROM vaults WHERE vault_id = '{VAULT}' FOR KEY SHARE SKIP LOCKED",
        "INSERT INTO audit_log (sealed) VALUES ('')",
        "SELECT sealed FROM audit_unchained",
        "INSERT INTO audit_chain SELECT 1, id, '' FROM audit_unchained",
        "DELETE FROM audit_pending WHERE record_id = 1",
        "SELECT vault_id, erased_at, noted, deleted_at FROM erased_vaults",
        "UPDATE erased_vaults SET noted = true, deleted_at = now()",
        "SELECT FROM alembic_version",
        "SELECT end_fast_lookups('0')",
        "SELECT forget_unused_lookups()",
    ],
}


@pytest.fixture
def filled(database: Database) -> Database:
    """A database with a vault, a partition and a segment."""
    with database.connect("iot_writer") as writer:
        writer.execute("CREATE TABLE partition (LIKE segments)")
        writer.execute("ALTER TABLE segments ATTACH PARTITION partition FOR VALUES FROM (0) TO (9)")
        writer.execute(INSERT_SEGMENT)
    with database.connect("iot_api") as api:
        api.execute("SELECT raise_lookup_cost(14::smallint)")
        api.execute(INSERT_VAULT)
    return database


@pytest.mark.parametrize("role", REFUSED)
def test_postgres_refuses_other_statements(role: str, filled: Database) -> None:
    """All statements use one database, as refused statements change nothing."""
    for statement in ALLOWED[role]:
        with filled.connect(role) as connection:
            connection.execute(statement.encode())
    taken = []
    for statement in REFUSED[role]:
        with filled.connect(role) as connection:
            try:
                _run(connection, statement)
            except InsufficientPrivilege:
                continue
        taken.append(statement)
    assert taken == []


def _run(connection: psycopg.Connection[tuple[object, ...]], statement: str) -> None:
    if statement.endswith("STDOUT"):
        with connection.cursor().copy(statement.encode()) as copy:
            copy.read()
    else:
        connection.execute(statement.encode())


def test_a_policy_of_the_writer_runs_no_code_as_the_api(filled: Database) -> None:
    """The owner of a table could attach expressions that run with the rights of its readers."""
    with filled.connect("iot_writer") as writer, filled.connect("iot_api") as api:
        writer.execute("ALTER TABLE segments ENABLE ROW LEVEL SECURITY")
        writer.execute(
            "CREATE POLICY steal ON segments USING ("
            "(SELECT count(pg_notify('loot', encode(wrapped_key, 'hex'))) FROM vaults) > 0)"
        )
        writer.execute("LISTEN loot")
        with pytest.raises(InsufficientPrivilege, match="row-level security"):
            api.execute("SELECT payload FROM segments")
        assert list(writer.notifies(timeout=0.2)) == []


def test_the_role_of_the_api_has_timeouts(database: Database) -> None:
    wanted = {
        "statement_timeout": "30s",
        "lock_timeout": "5s",
        "idle_in_transaction_session_timeout": "10s",
        "transaction_timeout": "5min",
        "row_security": "off",
        "search_path": "public",
    }
    with database.connect("iot_api") as api:
        for name, value in wanted.items():
            assert api.execute(f"SHOW {name}".encode()).fetchone() == (value,)


def test_every_table_has_grants(database: Database) -> None:
    """A new table fails this test until grants.sql names it."""
    grants = GRANTS.read_text(encoding="utf-8")
    with database.connect("postgres") as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind IN ('r', 'p', 'v', 'm', 'f')"
        ).fetchall()
    assert len(tables) >= 6
    for (table,) in tables:
        assert f" {table}" in grants, table


def test_a_database_of_version_0_1_gets_grants(empty_database: Database) -> None:
    """Tables of newer revisions are missing there, so grants.sql must not need them."""
    empty_database.create_roles()
    RecordedVersion(FIXTURES / "version_0_1").restore_postgres(empty_database.url("iot_migration"))
    empty_database.migrate()
    with empty_database.connect("iot_api") as api:
        revision = api.execute("SELECT version_num FROM alembic_version").fetchone()
    assert revision == (OLDEST_REVISION,)


def test_an_installation_of_one_role_is_handed_over(empty_database: Database) -> None:
    """postgres-roles.sql hands over tables and partitions, too. A second run changes nothing."""
    with empty_database.connect("postgres") as admin:
        admin.execute("CREATE ROLE iot_sensor LOGIN")
        name = admin.info.dbname
        try:
            admin.execute(f"ALTER DATABASE {name} OWNER TO iot_sensor".encode())
            migrate(empty_database.url("iot_sensor"))
            with empty_database.connect("iot_sensor") as old:
                old.execute("CREATE TABLE segments_old (LIKE segments)")
                old.execute(
                    "ALTER TABLE segments ATTACH PARTITION segments_old FOR VALUES FROM (0) TO (9)"
                )
            empty_database.create_roles()
            admin.execute("REASSIGN OWNED BY iot_sensor TO iot_migration")
            empty_database.migrate()
            owners = _owners(empty_database)
            assert owners["segments"] == owners["segments_old"] == "iot_writer"
            assert owners["vaults"] == owners["audit_log"] == "iot_migration"
            empty_database.create_roles()
            empty_database.migrate()
            assert _owners(empty_database) == owners
            with empty_database.connect("iot_writer") as writer:
                writer.execute("DROP TABLE segments_old")
        finally:
            admin.execute("DROP OWNED BY iot_sensor")
            admin.execute("DROP ROLE iot_sensor")


def _owners(database: Database) -> dict[str, str]:
    with database.connect("postgres") as connection:
        found = connection.execute(
            "SELECT relname, pg_get_userbyid(relowner) FROM pg_class "
            "WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"
        ).fetchall()
    return dict(cast("list[tuple[str, str]]", found))


DANGEROUS = [
    "CONFIG GET requirepass",
    "CONFIG SET dir /tmp",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "KEYS *",
    "RANDOMKEY",
    "MONITOR",
    "SHUTDOWN",
    "SAVE",
    "BGREWRITEAOF",
    "REPLICAOF NO ONE",
    "MODULE LIST",
    "ACL LIST",
    "ACL WHOAMI",
    "CLIENT LIST",
    "CLIENT KILL TYPE normal",
    "SLOWLOG GET",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "MIGRATE 127.0.0.1 1 k 0 1",
    "RESTORE k 0 x",
    "DUMP iot:backlog",
    "SORT iot:backlog",
    "PUBLISH rq:pubsub:x shutdown",
    "SUBSCRIBE rq:pubsub:x",
    "EVAL return 0",
    "RENAME iot:backlog iot:other",
    "OBJECT ENCODING iot:backlog",
    "GET other",
    "SET other x",
]
REDIS_REFUSED = {
    "iot_api": [
        *DANGEROUS,
        "DEL iot:ingest:0",
        "XTRIM iot:ingest:0 MAXLEN 0",
        "XDEL iot:ingest:0 1-0",
        "HSET iot:backlog bytes 0",
        "HSET rq:job:sweep status x",
        "XADD iot:dead:ids * a b",
        "XDEL iot:dead 1-0",
        "XTRIM iot:dead MAXLEN 0",
        "SET iot:tick:sweep 1",
        "LRANGE rq:queue:iot 0 -1",
        "RPUSH rq:queue:other sweep",
    ],
    "iot_writer": [
        *DANGEROUS,
        "SCAN 0",
        "CLIENT TRACKING ON BCAST",  # would send the names of all changed keys
        "GET iot:vault:00",
        "SET iot:vault:00 x",
        "GET iot:request:00",
        "GET iot:guesses:127.0.0.1",
        "SET iot:compaction:looked:00 1",
        "SET rq:suspended 1",
        "SADD rq:groups x",
        "RPUSH rq:queue:other sweep",
    ],
    "iot_rotation": [
        *DANGEROUS,
        "GET rq:job:00",
        "RPUSH rq:queue:iot sweep",
        "DEL iot:vault:00",
        "XADD iot:ingest:0 * e x",
        "XDEL iot:ingest:0 1-1",
        "RPUSH iot:compaction:orders x",
        "HSETNX iot:dead:orders 1-0 x",
        "GET iot:hot:segment:00:1",
        "GET iot:request:00",
        "GET iot:guesses:127.0.0.1",
    ],
}


def test_the_user_of_the_api_can_order_compaction(redis_users: RedisWithUsers) -> None:
    """This includes a vault with more small segments than one scan reads."""
    vault = b"v" * 16
    with redis_users.client("iot_api") as client:
        orders = CompactionOrders(client, KEYS)
        assert orders.claim_scan(vault)
        assert orders.claim_full_scan(vault)
        orders.request_full_scan(vault)
        wait_until(lambda: orders.claim_full_scan(vault), what="another scan")
        orders.postpone_full_scan(vault)
        assert not orders.claim_full_scan(vault)
        assert orders.push(b"order")
        assert orders.now()
    assert redis_users.denied() == []


def test_redis_refuses_other_commands(redis_users: RedisWithUsers) -> None:
    for user, commands in REDIS_REFUSED.items():
        with redis_users.client(user) as client:
            for each in commands:
                with pytest.raises(NoPermissionError):
                    client.execute_command(*each.split())
