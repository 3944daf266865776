"""The local PostgreSQL keeps committed data, and refuses other users."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from iot_tools.local.child import LaunchError, wait_until
from iot_tools.local.postgres_server import PostgresServer

# Another process that starts the same database and kills itself.
KILLED = """
import os, signal, sys
from pathlib import Path
from iot_tools.local.postgres_server import PostgresServer
PostgresServer(Path(sys.argv[1])).start()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PostgresServer]:
    server = PostgresServer(tmp_path / "pg")
    yield server
    server.stop()


def query(server: PostgresServer, text: str) -> object:
    """Return the value of a query."""
    with psycopg.connect(server.url) as connection:
        row = connection.execute(text.encode()).fetchone()
        assert row is not None
        return row[0]


def write(server: PostgresServer, text: str) -> None:
    """Execute and commit a statement."""
    with psycopg.connect(server.url) as connection:
        connection.execute(text.encode())


def test_postgres_keeps_its_data_after_a_stop_and_a_kill(server: PostgresServer) -> None:
    server.start()
    write(server, "CREATE TABLE kept (n int)")
    assert server.stop()
    server.start()
    write(server, "INSERT INTO kept VALUES (1)")
    server.kill(signal.SIGKILL)
    server.start()
    assert query(server, "SELECT count(*) FROM kept") == 1


def test_postgres_listens_on_a_private_socket_only(server: PostgresServer) -> None:
    server.start()
    assert query(server, "SHOW listen_addresses") == ""
    assert server.directory.stat().st_mode & 0o777 == 0o700
    assert query(server, "SHOW fsync") == "on"


def test_postgres_stops_quickly_with_connected_clients(server: PostgresServer) -> None:
    server.start()
    with psycopg.connect(server.url):
        assert server.stop()
    assert server.ending == "exit status 0"


def test_a_port_requires_a_password(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", port=_port(), settings={"fsync": "off"})
    server.start()
    assert query(server, "SELECT 1") == 1
    stranger = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    with pytest.raises(psycopg.OperationalError, match="no password"):
        psycopg.connect(stranger)
    server.stop()


def test_postgres_uses_a_port_if_the_socket_path_is_too_long(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / ("long" * 30), settings={"fsync": "off"})
    server.start()
    assert server.port is not None
    assert query(server, "SELECT 1") == 1
    server.stop()


def test_given_settings_override_the_defaults(tmp_path: Path) -> None:
    server = PostgresServer(tmp_path / "pg", settings={"fsync": "off", "max_connections": "17"})
    server.start()
    assert query(server, "SHOW max_connections") == "17"
    server.stop()


def test_a_stale_pid_file_of_another_process_is_ignored(server: PostgresServer) -> None:
    server.start()
    server.kill(signal.SIGKILL)
    for pid_file in (server.data / "postmaster.pid", server.directory / ".s.PGSQL.5432.lock"):
        lines = pid_file.read_text(encoding="utf-8").splitlines()
        pid_file.write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n", encoding="utf-8")
    server.start()
    assert query(server, "SELECT 1") == 1


def test_an_interrupted_setup_is_repeated(server: PostgresServer) -> None:
    server.directory.mkdir()
    (server.directory / "data.new").mkdir()
    (server.directory / "data.new" / "PG_VERSION").write_text("18", encoding="utf-8")
    server.start()
    assert query(server, "SELECT 1") == 1


def test_data_of_another_version_is_refused(server: PostgresServer) -> None:
    server.data.mkdir(parents=True)
    (server.data / "PG_VERSION").write_text("15\n", encoding="utf-8")
    with pytest.raises(LaunchError, match="belongs to PostgreSQL 15, not 18"):
        server.start()


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG of Linux")
def test_the_next_start_waits_for_the_server_of_a_killed_run(server: PostgresServer) -> None:
    command = [sys.executable, "-c", KILLED, str(server.directory)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    server.start()
    assert query(server, "SELECT 1") == 1
    log = server.log.read_text(encoding="utf-8")
    assert log.count("database system is shut down") == 1
    assert "not properly shut down" not in log


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which Postgres drops")
def test_postgres_started_by_root_runs_as_another_user_with_one_capability(
    server: PostgresServer,
) -> None:
    assert server.directory.parent.stat().st_mode & 0o077 == 0
    server.start()
    status = Path(f"/proc/{server.pid}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    assert "0" not in fields["Uid"].split()
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 1 << 1
    assert wait_until(server.ready, 1)


def _port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
