"""Two Postgres servers: a primary, and a standby that is created when it is needed."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg

from iot_tools.local.child import Child, wait_until
from iot_tools.local.ports import free_port
from iot_tools.local.postgres_server import PostgresServer, server_user
from system.faults.keeper import Keeper, keep
from system.faults.small_disk import SmallDisk

_SETTINGS = {"wal_level": "replica", "max_wal_senders": "4", "wal_keep_size": "256MB"}
_COPY_SECONDS = 90
_STEP_SECONDS = 20.0
_LEFT_BEHIND_SECONDS = 0.5
"""Time after which every session uses a changed setting."""

_BUSY = """
    SELECT pid FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND xact_start < %s
"""
_END = "SELECT pg_terminate_backend(%s)"
_CONTENT = """
    SELECT (SELECT count(*) FROM vaults),
        (SELECT array_agg(o ORDER BY o.shard) FROM ingest_offsets o)::text
"""


class Member(PostgresServer):
    """One of the two servers."""

    def __init__(self, directory: Path, log: Path, disk: SmallDisk | None) -> None:
        super().__init__(directory, settings=_SETTINGS, port=free_port(), log=log)
        self.disk = disk

    @contextmanager
    def connected(self, patience: float = 20.0) -> Iterator["psycopg.Connection[Any]"]:
        """Yield a connection that may write during every fault. Wait until Postgres accepts it."""
        deadline = time.monotonic() + patience
        while True:
            try:
                connection: psycopg.Connection[Any] = psycopg.connect(
                    self.url,
                    autocommit=True,
                    connect_timeout=3,
                    options="-c default_transaction_read_only=off",
                )
                break
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        with connection:
            yield connection

    def ask(self, question: LiteralString, values: Sequence[object] = ()) -> Any:
        """Return the first column of the first row of a query."""
        with self.connected() as connection:
            return cast("tuple[Any, ...]", connection.execute(question, values).fetchone())[0]

    def set(self, name: LiteralString, value: LiteralString) -> None:
        """Change a setting for all sessions, even for open sessions."""
        with self.connected() as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = {value}")
            connection.execute("SELECT pg_reload_conf()")

    def copy_from(self, other: "Member") -> None:
        """Become a standby of another member. This member must not be running."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self.data.mkdir(mode=0o700)
        shutil.copy(other.directory / "password", self.directory / "password")
        options = ["-d", other.url, "-D", str(self.data), "-X", "stream", "--checkpoint=fast"]
        options += ["--no-sync", "--no-manifest", "--write-recovery-conf"]
        if server_user() >= 0:
            os.chown(self.data, server_user(), server_user())
        if self.disk is not None and other.disk is not None:
            self.disk.empty()
            options.append(f"--tablespace-mapping={other.disk.tables}={self.disk.tables}")
        Child(self._program("pg_basebackup", options, self.log)).run(_COPY_SECONDS)

    def is_standby(self) -> bool:
        """Return whether this member is a running standby."""
        try:
            return bool(self.ask("SELECT pg_is_in_recovery()"))
        except psycopg.OperationalError:
            return False


class PostgresPair:
    """A primary, and another member that is a standby or the former primary."""

    def __init__(self, folder: Path, stack: ExitStack, disks: Sequence[SmallDisk]) -> None:
        self._stack = stack
        self._members = [
            Member(
                folder / f"postgres-{number}",
                folder / f"postgres-{number}.log",
                disks[number] if disks else None,
            )
            for number in range(2)
        ]
        self.keeper = keep(stack, "postgres-0", self.primary)
        self._other: Keeper | None = None
        self.keeper.wait_ready()

    @property
    def primary(self) -> Member:
        """The member that takes writes."""
        return self._members[0]

    @property
    def standby(self) -> Member:
        """The other member."""
        return self._members[1]

    def make_standby(self) -> None:
        """Make the other member a standby. Connections to a former primary are closed."""
        self.keeper.wait_ready()
        self._end_other()
        self.standby.copy_from(self.primary)
        self._other = keep(self._stack, self.standby.directory.name, self.standby)
        if not wait_until(self.standby.is_standby, _STEP_SECONDS, interval=0.05):
            raise TimeoutError("the standby does not start")
        self.wait_replayed()

    def end_primary(self) -> None:
        """Stop the primary, which commits no open transaction."""
        _end(self.keeper)

    def _end_other(self) -> None:
        if self._other is not None:
            _end(self._other)
        self._other = None

    def wait_replayed(self) -> None:
        """Wait until the standby has all current commits of the primary."""
        reached = self.primary.ask("SELECT pg_current_wal_insert_lsn()")
        behind = "SELECT pg_last_wal_replay_lsn() < %s::pg_lsn"
        deadline = time.monotonic() + _STEP_SECONDS
        while self.standby.ask(behind, [reached]) is not False:
            if time.monotonic() > deadline:
                raise TimeoutError("the standby does not catch up")
            time.sleep(0.05)

    def stop_following(self) -> None:
        """Disconnect the standby from the primary, so that it gets no more commits."""
        self.standby.set("primary_conninfo", "''")
        alone = "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)"
        if not wait_until(lambda: bool(self.standby.ask(alone)), _STEP_SECONDS, interval=0.05):
            raise TimeoutError("the standby does not disconnect")

    def let_primary_read_only(self) -> None:
        """Make the primary read-only, keep its connections, and wait until the standby has all
        writes.
        """
        self.primary.set("default_transaction_read_only", "on")
        time.sleep(_LEFT_BEHIND_SECONDS)
        now = self.primary.ask("SELECT now()")
        with self.primary.connected() as connection:

            def busy() -> list[Any]:
                return connection.execute(_BUSY, [now]).fetchall()

            if not wait_until(lambda: not busy(), 2, interval=0.05):
                for row in busy():
                    connection.execute(_END, row)
            if not wait_until(lambda: not busy(), _STEP_SECONDS, interval=0.05):
                raise TimeoutError("transactions on the old primary do not end")
        self.wait_replayed()

    def promote(self) -> None:
        """Promote the standby. The old primary does not change."""
        self.standby.ask("SELECT pg_promote(true, 30)")
        if self.standby.is_standby():
            raise TimeoutError("the standby was not promoted")
        self._members.reverse()
        self.keeper, self._other = cast("Keeper", self._other), self.keeper

    def check_same(self) -> None:
        """Raise `RuntimeError` if the old primary has commits that the new primary lacks."""
        new, old = (self._content(each) for each in self._members)
        if new != old:
            raise RuntimeError(
                f"the old primary took writes: it has {old}, the new primary has {new}"
            )

    def _content(self, member: Member) -> object:
        with member.connected() as connection:
            return connection.execute(_CONTENT).fetchone()


def _end(keeper: Keeper) -> None:
    keeper.stop()
    keeper.join(60)
    if keeper.is_alive():
        raise TimeoutError("a Postgres does not end")
