"""`iot-sensor migrate` waits for Postgres, migrates the schema and reports errors."""

import signal
import time
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from iot_stores.postgres import check_schema
from iot_tools.cli.migrate import PostgresAt
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer
from iot_writer import schema
from support.waiting import stretched, wait_until
from system.tools.conftest import Start

LOCK = 0x696F74
SECRET = "s3cret-w0rd"


def check(url: str) -> None:
    """Check that the database has the schema."""
    with psycopg.connect(url, autocommit=True) as connection:
        check_schema(connection)


def test_migrate_needs_only_the_url(empty_url: str, start: Start, tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(f"{empty_url}\n")
    process = start("migrate", IOT_POSTGRES_URL_FILE=str(file))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out.endswith("the schema is up to date\n")
    check(empty_url)


def test_migrate_waits_for_a_server_that_starts(tmp_path: Path, start: Start) -> None:
    server = PostgresServer(tmp_path / "late", settings={"fsync": "off"})
    server.start()
    url = server.url
    server.stop()
    process = start("migrate", "--wait", "60", IOT_POSTGRES_URL=url)
    try:
        assert process.stdout is not None
        assert "waiting for Postgres at " in process.stdout.readline()
        server.start()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.endswith("the schema is up to date\n")
        check(server.url)
    finally:
        server.stop()


def test_a_missing_server_is_reported_after_the_wait(start: Start) -> None:
    port = free_port()
    url = f"postgresql://me:{SECRET}@127.0.0.1:{port}/plant"
    process = start("migrate", "--wait", "6", IOT_POSTGRES_URL=url)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(f"can't connect to Postgres at 127.0.0.1:{port}/plant (tried for 6 s): ")
    assert "Connection refused" in err
    assert err.count("\n") == 1
    assert out.count("waiting for Postgres") == 2
    assert SECRET not in out + err


def test_migrate_does_not_wait_by_default(start: Start) -> None:
    began = time.monotonic()
    process = start("migrate", IOT_POSTGRES_URL=f"postgresql://127.0.0.1:{free_port()}/x")
    assert process.wait(30) == 1
    assert time.monotonic() - began < stretched(10)


@pytest.mark.parametrize("what", ["role", "database", "password"])
def test_a_refused_connection_is_reported(
    what: str, postgres_server: PostgresServer, start: Start
) -> None:
    parts = conninfo_to_dict(postgres_server.url)
    hba = Path(str(_setting(postgres_server.url, "hba_file")))
    before = hba.read_text()
    changes = {"role": {"user": "nobody"}, "database": {"dbname": "nowhere"}, "password": {}}
    try:
        if what == "password":
            with psycopg.connect(postgres_server.url, autocommit=True) as connection:
                connection.execute("CREATE ROLE strict LOGIN PASSWORD 'right'")
                # Other users of this server need no password.
                hba.write_text(
                    "local all strict scram-sha-256\nhost all strict all scram-sha-256\n" + before
                )
                connection.execute("SELECT pg_reload_conf()")
            changes["password"] = {"user": "strict"}
        url = make_conninfo("", **{**parts, "password": SECRET, **changes[what]})
        process = start("migrate", IOT_POSTGRES_URL=url)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "can't connect to Postgres" in err
        assert {"role": 'role "nobody"', "database": 'database "nowhere"',
                "password": "password authentication failed"}[what] in err  # fmt: skip
        assert err.count("\n") == 1
        assert SECRET not in out + err
    finally:
        hba.write_text(before)
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS strict")
            connection.execute("SELECT pg_reload_conf()")


def _setting(url: str, name: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
        assert row is not None
        return row[0]


def test_a_missing_right_to_create_tables_is_reported(
    empty_url: str, postgres_server: PostgresServer, start: Start
) -> None:
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute("CREATE ROLE weak LOGIN")
    try:
        process = start("migrate", IOT_POSTGRES_URL=make_conninfo(empty_url, user="weak"))
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "refused the migration, and nothing was changed: permission denied for schema" in err
        assert err.count("\n") == 1
    finally:
        with psycopg.connect(postgres_server.url, autocommit=True) as connection:
            connection.execute("DROP ROLE weak")


def test_a_locked_table_is_reported(empty_url: str, start: Start) -> None:
    schema.migrate(empty_url, "0002")
    with psycopg.connect(empty_url) as dump:
        dump.execute("LOCK TABLE vaults IN ACCESS SHARE MODE")  # like pg_dump
        process = start("migrate", IOT_POSTGRES_URL=empty_url)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "another transaction, for example of pg_dump, locks a table" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql//me:{SECRET}@h/db",
        f"postgresql://me:{SECRET}@{SECRET}@h/db",
        f"postgresql://me:{SECRET}/{SECRET}@h/db",
        f"postgresql://me:1/{SECRET}@h/db",
        f"postgresql://me:{SECRET}%{SECRET}@h/db",
        f"{SECRET}",
    ],
)
def test_an_invalid_url_is_not_printed(url: str, start: Start) -> None:
    process = start("migrate", IOT_POSTGRES_URL=url)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("IOT_POSTGRES_URL is not a libpq URL; if the password contains special")
    assert SECRET not in out + err


def test_an_error_shows_no_password() -> None:
    server = PostgresAt(f"postgresql://me:{SECRET}@h/db")
    assert server.message(ValueError(f"a\nb {SECRET}")) == "a b ***"
    assert SECRET not in server.where


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["waiting", "migrating"])
def test_a_signal_ends_the_migration(
    number: signal.Signals, moment: str, empty_url: str, start: Start
) -> None:
    with psycopg.connect(empty_url) as holder:
        if moment == "waiting":
            url = f"postgresql://127.0.0.1:{free_port()}/x"
            process = start("migrate", "--wait", "60", IOT_POSTGRES_URL=url)
            assert process.stdout is not None
            process.stdout.readline()
        else:
            holder.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK,))
            process = start("migrate", "--wait", "60", IOT_POSTGRES_URL=empty_url)
            waits = "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            wait_until(lambda: holder.execute(waits).fetchone() == (True,))
        process.send_signal(number)
        _, err = process.communicate(timeout=10)
        assert process.returncode == 128 + number
        assert err == f"ended by {number.name}; run the command again\n"
        waits = "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        wait_until(
            lambda: holder.execute(waits).fetchone() == (True,), what="the end of the session"
        )


def test_concurrent_migrations_succeed(empty_url: str, start: Start) -> None:
    processes = [start("migrate", "--wait", "30", IOT_POSTGRES_URL=empty_url) for _ in range(3)]
    for process in processes:
        _, err = process.communicate(timeout=90)
        assert (process.returncode, err) == (0, "")
    check(empty_url)
