"""Migration of the database schema, by Alembic."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config

from iot_stores.postgres import OLDEST_REVISION, SCHEMA_REVISION, check_schema, schema_revision

_LOCK = 0x696F74
"""Key of the advisory lock: a second migration waits, and then finds nothing to do."""
_MIGRATIONS = resources.files(__package__) / "migrations"
GRANTS = _MIGRATIONS / "grants.sql"
_DEFINERS = _MIGRATIONS / "definers.sql"

# Restarts the waiting time of an upgrade from version 0.1, whose processes may run again after a
# rollback.
_RESTART_UPGRADE = (
    "UPDATE vault_lookups SET changed_at = now() WHERE fast_lookups = 'created' RETURNING true"
)

# Not part of a revision: a database that stays at `OLDEST_REVISION` needs the id too, and processes
# of earlier versions ignore the table.
_MARK = """
    CREATE TABLE IF NOT EXISTS installation (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        keyring bytea
    );
    INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING
"""


def migrate(postgres_url: str, revision: str | None = None, *, grant: bool = False) -> None:
    """Migrate the database at a libpq URL to the newest schema, in one transaction.

    A database with vaults of version 0.1 is migrated to `OLDEST_REVISION` only, on which processes
    of that version work. A writer does the rest later (`lookup_upgrade`). Each call restarts the
    time that these processes have.

    A schema one revision ahead is not changed, because this version works on it. This allows a
    rollback by one version. With `grant`, the roles of API and writers get their privileges.

    The first call creates the id of the installation, with which Redis is marked.

    Raises:
        SettingsError: the schema is more than one revision ahead.
    """
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://", creator=_creator(postgres_url), poolclass=sqlalchemy.NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        if _is_ahead(connection):
            return
        config.attributes["connection"] = connection
        _upgrade(connection, config, revision)
        driver: Any = connection.connection.driver_connection
        driver.execute(_DEFINERS.read_text(encoding="utf-8"))
        driver.execute(_MARK)
        if grant:
            driver.execute(GRANTS.read_text(encoding="utf-8"))


def _upgrade(connection: sqlalchemy.Connection, config: Config, revision: str | None) -> None:
    if revision is not None:
        command.upgrade(config, revision)
        return
    if _found(connection) < int(OLDEST_REVISION):
        command.upgrade(config, OLDEST_REVISION)
    old_processes_may_run = connection.scalar(sqlalchemy.text(_RESTART_UPGRADE))
    if not old_processes_may_run:
        command.upgrade(config, SCHEMA_REVISION)


def _found(connection: sqlalchemy.Connection) -> int:
    driver: Any = connection.connection.driver_connection
    exists = driver.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    return schema_revision(driver) if exists[0] else 0


def _is_ahead(connection: sqlalchemy.Connection) -> bool:
    # Called with the lock held: a newer version may have migrated while this one waited.
    if _found(connection) <= int(SCHEMA_REVISION):
        return False
    check_schema(connection.connection.driver_connection)  # type: ignore[arg-type] # psycopg's
    return True


def _creator(postgres_url: str) -> Callable[[], Any]:
    return lambda: psycopg.connect(postgres_url)
