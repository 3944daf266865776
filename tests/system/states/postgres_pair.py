"""A Postgres primary and its standby: real servers on loopback."""

import os
import shutil
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer, binaries, server_user
from iot_writer.schema import migrate
from support.waiting import wait_until

_SETTINGS = {"fsync": "off", "wal_level": "replica", "max_wal_senders": "4", "hot_standby": "on"}
_REPLAYED = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"


class PostgresPair:
    """A primary and a standby that follows it until the promotion."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.primary_port, self.standby_port = free_port(), free_port()
        self._primary = PostgresServer(
            directory / "primary", settings=_SETTINGS, port=self.primary_port
        )
        self._primary.start()
        migrate(self._primary.url)
        self._standby = PostgresServer(
            directory / "standby", settings=_SETTINGS, port=self.standby_port
        )
        self._copy()
        self._standby.start()

    def url(self, port: int) -> str:
        """Return the URL of a port on loopback."""
        return make_conninfo(self._primary.url, port=port)

    def promote(self) -> None:
        """Make the standby the primary."""
        with psycopg.connect(self.url(self.standby_port), autocommit=True) as admin:
            with psycopg.connect(self._primary.url) as primary:
                row = primary.execute("SELECT pg_current_wal_lsn()").fetchone()
            wait_until(
                lambda: admin.execute(_REPLAYED, row).fetchone() == (True,),
                what="a standby that has everything",
            )
            admin.execute("SELECT pg_promote()")
            wait_until(
                lambda: admin.execute("SELECT pg_is_in_recovery()").fetchone() == (False,),
                what="a new primary",
            )

    def demote_primary(self) -> None:
        """Make the old primary read-only, without closing its sessions."""
        with psycopg.connect(self.url(self.primary_port), autocommit=True) as admin:
            admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            admin.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """Stop both servers."""
        self._primary.kill()
        self._standby.kill()

    def _copy(self) -> None:
        """Create the data of the standby, which then follows the primary."""
        data = self._standby.data
        data.parent.mkdir(mode=0o700)
        os.chown(data.parent, server_user(), server_user())
        arguments = [
            str(binaries() / "pg_basebackup"), "--dbname", self._primary.url, "--pgdata", str(data),
            "--write-recovery-conf", "--checkpoint=fast", "--wal-method=stream", "--no-sync",
        ]  # fmt: skip
        log = data.parent / "copy.log"
        program = Program(name="pg_basebackup", arguments=arguments, log=log, user=server_user())
        Child(program).run(60)
        for name in ("password",):
            shutil.copy(self._primary.directory / name, data.parent / name)
