"""The writers own `segments`: expressions that they attach to it get no other role's rights."""

import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from psycopg.errors import InsufficientPrivilege

from iot_writer.maintenance.partitions import ensure_months_ahead
from iot_writer.schema import migrate
from system.rights.stores import Database

VAULT = "00000000-0000-0000-0000-000000000001"
INSERT_VAULT = f"""
    INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, lookup_format)
    VALUES ('{VAULT}', 'lookup', 'salt', 14, 'wrapped key', 2)
"""  # noqa: S608 - a constant
INSERT_SEGMENT = f"""
    INSERT INTO segments VALUES ('{VAULT}', 1, 1, 5, 5, 0, 0, 0, 0, 0, 1, '1salt of 16 bytes')
"""  # noqa: S608 - a constant
ERASE = f"SELECT erase_segments('{VAULT}', '{{1}}', '{{5}}', ARRAY['salt of 16 bytes'::bytea])"
REPLACE = (
    f"SELECT replace_segment('{VAULT}', 1, 5, 'salt of 16 bytes', "
    "ARRAY[1, 1, 5, 5, 0, 0, 0, 0, 0, 1], 'new')"
)
# A writer can create no function, but ts_rewrite of Postgres runs any query. The result is sent to
# the writer, together with the role that runs the query.
TRIGGER = """
    CREATE TRIGGER steal BEFORE DELETE ON segments FOR EACH ROW WHEN (pg_notify(
        'loot',
        current_user || ts_rewrite(
            'a', $$ SELECT tsquery 'a', wrapped_key::text::tsquery FROM public.vaults $$
        )::text
    ) IS NOT NULL) EXECUTE FUNCTION suppress_redundant_updates_trigger()
"""
ALTERATIONS = [
    f"ALTER FUNCTION {name} {how}"
    for name in ("erase_segments", "replace_segment")
    for how in (
        "SECURITY INVOKER",
        "SET search_path = iot_writer, public",
        "OWNER TO iot_writer",
        "RESET ALL",
    )
]
# What a role may do, apart from what every role may do.
RIGHTS = """
    SELECT relname, attname, privilege_type FROM (
        SELECT relname, NULL AS attname, relacl AS acl FROM pg_class
        UNION ALL SELECT relname, attname, attacl FROM pg_attribute
        JOIN pg_class ON pg_class.oid = attrelid
        UNION ALL SELECT proname, NULL, proacl FROM pg_proc
        UNION ALL SELECT nspname, NULL, nspacl FROM pg_namespace
    ) AS objects, aclexplode(acl) AS granted
    WHERE grantee = 'iot_eraser'::regrole ORDER BY relname, privilege_type
"""


@pytest.fixture
def with_segment(database: Database) -> Database:
    """A database with a vault and a segment of this vault."""
    with database.connect("iot_api") as api:
        api.execute("SELECT raise_lookup_cost(14::smallint)")
        api.execute(INSERT_VAULT.encode())
    with database.connect("iot_writer") as writer:
        writer.execute("CREATE TABLE partition (LIKE segments)")
        writer.execute("ALTER TABLE segments ATTACH PARTITION partition FOR VALUES FROM (0) TO (9)")
        writer.execute(INSERT_SEGMENT.encode())
    return database


@pytest.mark.parametrize("statement", [ERASE, REPLACE], ids=["erase", "replace"])
def test_a_trigger_of_the_writer_runs_no_code_as_the_api(
    with_segment: Database, statement: str
) -> None:
    with with_segment.connect("iot_writer") as writer, with_segment.connect("iot_api") as api:
        writer.execute("LISTEN loot")
        writer.execute("GRANT INSERT, DELETE ON segments TO iot_api")
        writer.execute(TRIGGER)
        for alteration in ALTERATIONS:
            with suppress(InsufficientPrivilege):
                writer.execute(alteration.encode())
        with suppress(InsufficientPrivilege):
            api.execute(statement.encode())
        assert [each.payload for each in writer.notifies(timeout=0.2)] == []


def test_the_writer_can_alter_no_function(with_segment: Database) -> None:
    for alteration in ALTERATIONS:
        with (
            with_segment.connect("iot_writer") as writer,
            pytest.raises(InsufficientPrivilege),
        ):
            writer.execute(alteration.encode())


def test_the_owner_of_the_functions_has_no_other_rights(with_segment: Database) -> None:
    with with_segment.connect("postgres") as connection:
        rights = connection.execute(RIGHTS).fetchall()
        assert rights == [
            ("erase_segments", None, "EXECUTE"),
            ("public", None, "USAGE"),
            ("replace_segment", None, "EXECUTE"),
            ("segments", None, "DELETE"),
            ("segments", None, "INSERT"),
            ("segments", None, "SELECT"),
            ("vaults", "vault_id", "SELECT"),
            ("vaults", "created_at", "UPDATE"),
        ]
        login = connection.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'iot_eraser'")
        assert login.fetchone() == (False,)


@pytest.fixture
def older_roles(empty_database: Database) -> Iterator[Database]:
    """An empty database with roles that an earlier version created: without `iot_eraser`."""
    with empty_database.connect("postgres") as admin:
        empty_database.create_roles()
        admin.execute("DROP OWNED BY iot_eraser")
        admin.execute("DROP ROLE iot_eraser")
        yield empty_database


def test_roles_of_an_earlier_version_work(older_roles: Database) -> None:
    """The next run of postgres-roles.sql and the migration after it hand the functions over."""
    owner = "SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE proname = 'erase_segments'"
    with older_roles.connect("postgres") as admin:
        older_roles.migrate()
        assert admin.execute(owner).fetchone() == ("iot_writer",)
        with older_roles.connect("iot_writer") as writer:
            for alteration in ALTERATIONS:
                writer.execute(alteration.encode())
        with older_roles.connect("iot_api") as api:
            api.execute(ERASE.encode())
        older_roles.create_roles()
        older_roles.migrate()
        assert admin.execute(owner).fetchone() == ("iot_eraser",)
        settings = admin.execute(
            "SELECT prosecdef, proconfig FROM pg_proc "
            "WHERE proname IN ('erase_segments', 'replace_segment')"
        ).fetchall()
        assert settings == [(True, ["search_path=public, pg_temp"])] * 2


def test_the_role_alone_is_enough(older_roles: Database) -> None:
    """As after postgres-roles.sql in another database of the server, or after the two statements of
    docs/runbooks.md."""
    with older_roles.connect("postgres") as admin:
        admin.execute("CREATE ROLE iot_eraser NOLOGIN")
        admin.execute("GRANT iot_eraser TO iot_migration")
    older_roles.migrate()
    with older_roles.connect("iot_api") as api:
        for statement in (ERASE, REPLACE):
            api.execute(statement.encode())


PLANTED = {
    "relation iot_writer.audit_log": "CREATE TABLE audit_log (LIKE public.audit_chain)",
    "relation iot_writer.vaults": "CREATE VIEW vaults AS SELECT 1",
    "type iot_writer.kind": "CREATE TYPE kind AS ENUM ('a')",
    "trigger steal on segments": TRIGGER,
    "policy see on segments": "CREATE POLICY see ON segments USING (true)",
    "rule also on segments": "CREATE RULE also AS ON DELETE TO segments DO ALSO NOTHING",
    "constraint odd of segments": "ALTER TABLE segments ADD CONSTRAINT odd CHECK (count > 0)",
    "constraint own of iot_writer.partition": (
        "ALTER TABLE partition ADD CONSTRAINT own CHECK (count > 0)"
    ),
    "default of count of iot_writer.partition": (
        "ALTER TABLE partition ALTER count SET DEFAULT pg_backend_pid()"
    ),
}


def test_the_migration_warns_of_objects_that_an_attacker_left(
    with_segment: Database, caplog: pytest.LogCaptureFixture
) -> None:
    migrate(with_segment.url("iot_migration"), grant=True)
    assert caplog.messages == []
    with with_segment.connect("iot_writer") as writer:
        ensure_months_ahead(writer, int(time.time() * 1000))
        for statement in PLANTED.values():
            writer.execute(statement.encode())
    migrate(with_segment.url("iot_migration"), grant=True)
    (warning,) = caplog.messages
    names = warning.partition("taken over: ")[2].split(", ")
    assert names == sorted(PLANTED)


def test_a_table_of_the_writer_schema_shadows_the_audit_log(with_segment: Database) -> None:
    """Writers of the service write into it, until somebody drops the table (docs/runbooks.md)."""
    with with_segment.connect("iot_writer") as writer:
        writer.execute("CREATE TABLE audit_log (sealed bytea)")
        writer.execute("INSERT INTO audit_log (sealed) VALUES ('')")
    with with_segment.connect("iot_api") as api:
        assert api.execute("SELECT count(*) FROM audit_log").fetchone() == (0,)
    with with_segment.connect("iot_migration") as migration:
        migration.execute("DROP TABLE iot_writer.audit_log CASCADE")
    with with_segment.connect("iot_writer") as writer:
        writer.execute("INSERT INTO audit_log (sealed) VALUES ('')")
    with with_segment.connect("iot_api") as api:
        assert api.execute("SELECT count(*) FROM audit_log").fetchone() == (1,)
