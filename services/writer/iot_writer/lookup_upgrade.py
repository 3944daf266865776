"""The end of an upgrade from version 0.1: new lookups are created once its processes are gone."""

import logging
from importlib import resources

import psycopg

from iot_stores import vault_lookups
from iot_stores.postgres import OLDEST_REVISION, SCHEMA_REVISION, Connection

_log = logging.getLogger(__name__)

_IS_DUE = """
    SELECT changed_at < now() - %s * interval '1 s'
    FROM vault_lookups WHERE fast_lookups = 'created'
"""
_NOTE_REVISION = "UPDATE alembic_version SET version_num = %s WHERE version_num = %s"


def advance(connection: Connection, *, after_seconds: float) -> bool:
    """Bring schema 0003 to 0004 when it is `after_seconds` old; True if that was done now.

    From then on processes of version 0.1 are not ready, what they try to create is refused, and
    every vault of format 1 moves to format 2 when it is used. Lookups that no vault has any more
    are forgotten.
    """
    done = _is_due(connection, after_seconds) and _end_fast_lookups(connection)
    if done:
        _log.info("new vaults have a lookup that costs a scrypt from now on")
    vault_lookups.forget_unused(connection)
    return done


def _is_due(connection: Connection, after_seconds: float) -> bool:
    row = connection.execute(_IS_DUE, (after_seconds,)).fetchone()
    return row is not None and bool(row[0])


def _end_fast_lookups(connection: Connection) -> bool:
    statement = resources.files("iot_writer.migrations").joinpath(f"{SCHEMA_REVISION}.sql")
    with connection.transaction():
        noted = connection.execute(_NOTE_REVISION, (SCHEMA_REVISION, OLDEST_REVISION)).rowcount
        if noted:  # else another writer was first, or a newer version migrated
            connection.execute(psycopg.sql.SQL(statement.read_text()))
    return bool(noted)
