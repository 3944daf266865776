"""PgBouncer in transaction mode, a process on loopback."""

import shutil
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import server_user
from support.waiting import wait_until

POOL = 5
"""Maximum number of connections to Postgres."""


def find_pgbouncer() -> str | None:
    """Return the path of the program. Debian installs it outside the PATH of ordinary users."""
    return shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")


class PgBouncer:
    """A PgBouncer in front of the database at a libpq URL."""

    def __init__(self, directory: Path, postgres_url: str, *, clients: int = 500) -> None:
        path = find_pgbouncer()
        assert path is not None
        directory.mkdir()
        self.port = free_port()
        target = conninfo_to_dict(postgres_url)
        self._database, self._user = str(target["dbname"]), str(target["user"])
        to = {
            key: str(target[key])
            for key in ("host", "port", "dbname", "user", "password")
            if key in target
        }
        (directory / "users.txt").write_text(f'"{self._user}" ""\n', encoding="utf-8")
        (directory / "pgbouncer.ini").write_text(
            f"""
            [databases]
            {self._database} = {make_conninfo(**to)}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = trust
            auth_file = {directory / "users.txt"}
            pool_mode = transaction
            default_pool_size = {POOL}
            max_client_conn = {clients}
            ignore_startup_parameters = extra_float_digits
            """.replace("            ", ""),
            encoding="utf-8",
        )
        self._child = Child(
            Program(
                name="pgbouncer",
                arguments=[path, str(directory / "pgbouncer.ini")],
                log=directory / "pgbouncer.log",
                user=server_user(),
            )
        )
        self._child.spawn()
        wait_until(self._ready, what="PgBouncer")

    @property
    def url(self) -> str:
        """The URL of the database through PgBouncer."""
        return f"postgresql://{self._user}@127.0.0.1:{self.port}/{self._database}"

    def _ready(self) -> bool:
        assert self._child.running, self._child.log_tail(20)
        try:
            with psycopg.connect(self.url) as connection:
                return connection.execute("SELECT 1").fetchone() == (1,)
        except psycopg.OperationalError:
            return False

    def stop(self) -> None:
        """Stop the process."""
        self._child.kill()
