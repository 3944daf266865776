"""The database's schema, brought to the version this code knows by alembic."""

from collections.abc import Callable
from importlib import resources
from typing import Any

import psycopg
import sqlalchemy
from alembic import command
from alembic.config import Config

from iot_stores.postgres import OLDEST_REVISION, SCHEMA_REVISION, check_schema, schema_revision

_LOCK = 0x696F74
"""Two migrations at once would trip over each other; the second waits and finds all done."""
_MIGRATIONS = resources.files(__package__) / "migrations"
GRANTS = _MIGRATIONS / "grants.sql"
_DEFINERS = _MIGRATIONS / "definers.sql"

# Another rollout from version 0.1, for example after a rollback: its processes run again.
_RESTART_UPGRADE = (
    "UPDATE vault_lookups SET changed_at = now() WHERE fast_lookups = 'created' RETURNING true"
)

# Of no revision: a database that stays at `OLDEST_REVISION` needs the id too, and processes of
# versions before do not mind the table.
_MARK = """
    CREATE TABLE IF NOT EXISTS installation (
        only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
        id uuid NOT NULL DEFAULT gen_random_uuid(),
        keyring bytea
    );
    INSERT INTO installation DEFAULT VALUES ON CONFLICT DO NOTHING
"""


def migrate(postgres_url: str, revision: str | None = None, *, grant: bool = False) -> None:
    """Bring the database at a libpq URL to the newest schema; does nothing when it is there.

    A database with vaults of version 0.1 is brought to `OLDEST_REVISION` only, on which processes
    of that version go on to work; a writer does the rest later (`lookup_upgrade`). Each call gives
    those processes the whole time again.

    All of it happens in one transaction, or nothing does. A schema one revision ahead is left as
    it is, since this version works on it: that is how one goes back to it. With `grant` the roles
    of the API and the writers get their rights on the tables.

    The first call gives the database the id of an installation, with which Redis is marked.

    Raises:
        SettingsError: the schema is further ahead.
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
    """Asked with the lock held: a newer version may have migrated while this one waited."""
    if _found(connection) <= int(SCHEMA_REVISION):
        return False
    check_schema(connection.connection.driver_connection)  # type: ignore[arg-type] # psycopg's
    return True


def _creator(postgres_url: str) -> Callable[[], Any]:
    return lambda: psycopg.connect(postgres_url)
