"""Migrations create a usable schema once, even when they run repeatedly or concurrently."""

import os
import subprocess
import sys

import psycopg
import pytest

from integration.writer.sending import sending
from iot_models.errors import SettingsError
from iot_models.settings import Settings, load
from iot_stores.postgres import OLDEST_REVISION, SCHEMA_REVISION, check_schema
from iot_tools.local.postgres_server import binaries
from iot_writer.schema import migrate
from iot_writer.writer import Writer
from support.databases import set_revision
from support.draining import drain_all
from support.waiting import wait_until

LOCK = 0x696F74


def _dump(url: str) -> list[str]:
    command = [str(binaries() / "pg_dump"), "--dbname", url]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line for line in text.splitlines() if "restrict" not in line]  # a random token


def test_migrating_an_empty_database_makes_it_usable(
    empty_url: str, environment: dict[str, str]
) -> None:
    settings = load(environment | {"IOT_POSTGRES_URL": empty_url})
    migrate(empty_url)
    writer = Writer(settings)
    with sending(settings) as sender:
        sender.send(b"p", 3)
        drain_all(writer)
        sender.check_all()
    writer.close()


def test_the_id_of_the_installation_is_kept(empty_url: str) -> None:
    """The id is created at any revision: version 0.1 may run on the oldest revision."""
    found = set()
    for revision in ("0001", OLDEST_REVISION, None, None):
        migrate(empty_url, revision)
        with psycopg.connect(empty_url) as connection:
            found.add(connection.execute("SELECT id FROM installation").fetchone())
    assert len(found) == 1


def test_the_database_of_another_application_is_refused(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num text)")
        connection.execute("INSERT INTO alembic_version VALUES ('ae1027a6acf0')")
        before = _dump(empty_url)
        with pytest.raises(SettingsError, match="another application uses"):
            check_schema(connection)
    with pytest.raises(SettingsError, match="another application uses"):
        migrate(empty_url)
    assert _dump(empty_url) == before


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    before = _dump(empty_url)
    assert any("CREATE TABLE public.segments" in line for line in before)
    migrate(empty_url)
    assert _dump(empty_url) == before


def test_concurrent_migrations_run_once(empty_url: str) -> None:
    script = f"from iot_writer.schema import migrate; migrate({empty_url!r})"
    command = [sys.executable, "-W", "error", "-c", script]
    with psycopg.connect(empty_url) as holder:
        holder.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        processes = [
            subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ) for _ in range(3)
        ]
        waiting = "SELECT count(*) = 3 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(
            lambda: holder.execute(waiting).fetchone() == (True,),
            what="three waiting migrations",
        )
    for process in processes:
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, b"")
    with psycopg.connect(empty_url, autocommit=True) as connection:
        check_schema(connection)
        rows = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert rows == [(SCHEMA_REVISION,)]


def test_a_failed_migration_changes_nothing(empty_url: str) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE audit_log ()")  # the last step of the migration fails
        before = _dump(empty_url)
        with pytest.raises(Exception, match="already exists"):
            migrate(empty_url)
        assert _dump(empty_url) == before
        connection.execute("DROP TABLE audit_log")
    migrate(empty_url)


NEXT = f"{int(SCHEMA_REVISION) + 1:04}"


def test_the_schema_of_the_next_version_is_used_and_not_changed(
    settings: Settings, postgres_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute("UPDATE alembic_version SET version_num = %s", (NEXT,))
    check_schema(postgres)
    migrate(postgres_url)
    rows = postgres.execute("SELECT version_num FROM alembic_version").fetchall()
    assert rows == [(NEXT,)]
    writer = Writer(settings)
    writer.postgres()
    writer.close()


def test_a_migration_after_a_newer_one_changes_nothing(empty_url: str) -> None:
    script = f"from iot_writer.schema import migrate; migrate({empty_url!r})"
    command = [sys.executable, "-W", "error", "-c", script]
    with psycopg.connect(empty_url) as newer:
        newer.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
        waiter = subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ)
        waiting = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(
            lambda: newer.execute(waiting).fetchone() == (True,),
            what="a waiting migration",
        )
        newer.execute("CREATE TABLE alembic_version (version_num text)")
        newer.execute("INSERT INTO alembic_version VALUES (%s)", (NEXT,))
    _, said = waiter.communicate(timeout=60)
    assert (waiter.returncode, said) == (0, b"")
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT * FROM alembic_version").fetchall() == [(NEXT,)]


def test_a_schema_two_versions_ahead_is_refused(
    postgres_url: str, postgres: psycopg.Connection
) -> None:
    postgres.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(SettingsError, match="run a newer version"):
        migrate(postgres_url)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("none", "the database has no schema: run `iot-sensor migrate`"),
        (
            "0002",
            (
                f"the database's schema is 0002, this version needs {OLDEST_REVISION}: "
                "run `iot-sensor migrate`"
            ),
        ),
        (
            "9999",
            (
                "the database's schema is 9999, this version works with schemas up to "
                f"{int(SCHEMA_REVISION) + 1:04}: run a newer version"
            ),
        ),
    ],
)
def test_a_writer_refuses_the_schema_of_another_version(
    found: str, sentence: str, settings: Settings, postgres: psycopg.Connection
) -> None:
    set_revision(postgres, found)
    with pytest.raises(SettingsError) as refused:
        check_schema(postgres)
    assert str(refused.value) == sentence
    writer = Writer(settings)
    with pytest.raises(SettingsError, match=r"run (`iot-sensor migrate`|a newer version)"):
        writer.postgres()
    writer.close()
    others = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'iot-writer'"
    others += " AND datname = current_database()"
    wait_until(
        lambda: postgres.execute(others).fetchone() == (0,), what="the end of all connections"
    )


_DEFINERS = "SELECT proname, proconfig FROM pg_proc WHERE prosecdef ORDER BY proname"
_PLANTED = """
    CREATE TEMPORARY TABLE vault_lookups AS
    SELECT true AS only_row, 'created' AS fast_lookups, '{}'::smallint[] AS costs,
        now() AS changed_at
"""
_FAST_VAULT = """
    INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key, lookup_format)
    VALUES (gen_random_uuid(), 'l', 's', 10, 'w', 1)
"""


def test_functions_of_the_owner_read_no_temporary_tables(empty_url: str) -> None:
    """This holds in a new database and in a database that an earlier version migrated."""
    migrate(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        definers = connection.execute(_DEFINERS).fetchall()
        assert len(definers) == 11
        assert all(config == ["search_path=public, pg_temp"] for _, config in definers)
        for name, _ in definers:
            oid = connection.execute("SELECT %s::regproc::oid", (name,)).fetchone()
            signature = connection.execute("SELECT %s::oid::regprocedure::text", oid).fetchone()
            assert signature
            alter = f"ALTER FUNCTION {signature[0]} SET search_path FROM CURRENT"
            connection.execute(alter.encode())
        assert connection.execute(_DEFINERS).fetchall() != definers
        migrate(empty_url)
        assert connection.execute(_DEFINERS).fetchall() == definers
        connection.execute(_PLANTED)
        with pytest.raises(psycopg.errors.CannotConnectNow):
            connection.execute(_FAST_VAULT)
