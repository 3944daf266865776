"""The migrations: they bring the database's schema to the version that this code knows.

Each revision is one SQL file. The table `alembic_version` holds the revision of the database,
because version 0.1 ran such files with Alembic (docs/adr/0019-migrations-without-alembic.md).
"""

import logging
import time
from importlib import resources
from importlib.resources.abc import Traversable

import psycopg

from iot_models.errors import SettingsError
from iot_stores.postgres import (
    OLDEST_REVISION,
    SCHEMA_REVISION,
    Connection,
    check_schema,
    schema_revision,
    transaction,
)

_log = logging.getLogger(__name__)

_LOCK = 0x696F74
"""Key of the advisory lock: a second migration waits, and then finds nothing to do."""
_LOCK_LIMIT = "SET LOCAL lock_timeout = '2s'"
"""Limits how long a migration waits for a lock, because other statements wait behind it. The limit
is shorter than the `lock_timeout` of the role `iot_api` (postgres-roles.sql of the chart), so a
migration that waits does not make statements of the API fail."""
_PAUSE_SECONDS = 3.0
LOCKED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
"""Errors of a migration that waited too long for a lock. A deadlock means that another transaction
has locked a table, and waits for a table that the migration has locked. Postgres reports a deadlock
after 1 s, which is before the lock timeout."""
_MIGRATIONS = resources.files(__package__) / "migrations"
GRANTS = _MIGRATIONS / "grants.sql"
_PLANTED = _MIGRATIONS / "planted.sql"
_AUDIT_CHAIN = _MIGRATIONS / "audit_chain.sql"
_AUDIT_EVENTS = _MIGRATIONS / "audit_events.sql"
_ERASURE = _MIGRATIONS / "erasure.sql"
_DEFINERS = _MIGRATIONS / "definers.sql"
_CREATE_REVISION = """
    CREATE TABLE alembic_version (
        version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY
    )
"""

# Restarts the waiting time of an upgrade from version 0.1: after a rollback, its processes may run
# again.
_RESTART_UPGRADE = (
    "UPDATE vault_lookups SET changed_at = now() WHERE fast_lookups = 'created' RETURNING true"
)

# Not part of a revision: a database that stays at `OLDEST_REVISION` needs the id, too. Processes of
# earlier versions ignore the table.
_MARK = """
    CREATE TABLE IF NOT EXISTS installation (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        keyring bytea
    );
    INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING
"""


def migrate(
    postgres_url: str, revision: str | None = None, *, grant: bool = False, wait: float = 0.0
) -> None:
    """Migrate the database to the newest schema or to `revision`, in one transaction.

    `postgres_url` is a libpq URL. The first call creates the id of the installation. `grant` also
    grants the roles of API and writers their privileges, and logs objects that an attacker with the
    writers' role may have left.

    A database with vaults of version 0.1 is migrated to `OLDEST_REVISION` only, on which processes
    of version 0.1 work. Once they have had time to shut down, a writer does the last step
    (`lookup_upgrade`). Each call of `migrate` restarts that time.

    A schema that is one revision newer than this code is not changed, because this code works on
    it. So a rollback by one version is possible.

    If another migration runs, or another transaction (for example of pg_dump) locks a table that is
    to be changed, the migration is tried again for `wait` seconds.

    Raises:
        SettingsError: the schema is newer by more than one revision, or `revision` does not exist.
        LOCKED: another migration ran, or other transactions locked a table, for too long. Nothing
            was changed.
    """
    end = time.monotonic() + wait
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.add_notice_handler(_log_warning)
        while True:
            try:
                with transaction(connection):
                    _migrate(connection, revision, grant=grant)
            except LOCKED:
                if time.monotonic() + _PAUSE_SECONDS > end:
                    raise
            else:
                return
            _log.info("another migration or transaction holds a lock; the migration is tried again")
            time.sleep(_PAUSE_SECONDS)


def _migrate(connection: Connection, revision: str | None, *, grant: bool) -> None:
    # While ALTER TABLE waits for a transaction that reads the table, all later statements on this
    # table wait. So the migration gives up soon, and lets them pass before it tries again.
    connection.execute(_LOCK_LIMIT)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    if _is_ahead(connection):
        return
    _upgrade(connection, revision)
    _run(connection, _AUDIT_CHAIN)
    _run(connection, _AUDIT_EVENTS)
    _run(connection, _ERASURE)
    _run(connection, _DEFINERS)
    connection.execute(_MARK)
    if grant:
        _run(connection, GRANTS)
        _run(connection, _PLANTED)


def _log_warning(notice: psycopg.errors.Diagnostic) -> None:
    if notice.severity_nonlocalized == "WARNING":
        _log.warning("%s", notice.message_primary)


def _upgrade(connection: Connection, revision: str | None) -> None:
    if revision is not None:
        _upgrade_to(connection, revision)
        return
    if _found(connection) < int(OLDEST_REVISION):
        _upgrade_to(connection, OLDEST_REVISION)
    old_processes_may_run = connection.execute(_RESTART_UPGRADE).fetchone()
    if not old_processes_may_run:
        _upgrade_to(connection, SCHEMA_REVISION)


def _upgrade_to(connection: Connection, revision: str) -> None:
    scripts = _scripts()
    if revision not in scripts:
        raise SettingsError(
            f"there is no schema revision {revision}: name one of {', '.join(scripts)}"
        )
    if not _has_revision(connection):
        connection.execute(_CREATE_REVISION)
    for number, script in scripts.items():
        if _found(connection) < int(number) <= int(revision):
            _run(connection, script)
            connection.execute("DELETE FROM alembic_version")
            connection.execute("INSERT INTO alembic_version VALUES (%s)", (number,))


def _scripts() -> dict[str, Traversable]:
    """Return the SQL file of each revision, the oldest revision first."""
    names = {file.name.removesuffix(".sql"): file for file in _MIGRATIONS.iterdir()}
    return {name: names[name] for name in sorted(names) if name.isdecimal()}


def _run(connection: Connection, script: Traversable) -> None:
    connection.execute(script.read_bytes())


def _has_revision(connection: Connection) -> bool:
    row = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _found(connection: Connection) -> int:
    # A SELECT from a missing table would end the transaction.
    return schema_revision(connection) if _has_revision(connection) else 0


def _is_ahead(connection: Connection) -> bool:
    # Called with the lock held, because a newer version may have migrated meanwhile.
    if _found(connection) <= int(SCHEMA_REVISION):
        return False
    check_schema(connection)
    return True
