"""The last step of an upgrade from version 0.1, after the processes of that version have ended."""

import logging

from iot_stores import vault_lookups
from iot_stores.postgres import Connection

_log = logging.getLogger(__name__)


def advance(connection: Connection, *, after_seconds: float) -> bool:
    """Migrate schema 0003 to 0004 if `iot-sensor migrate` last ran at least `after_seconds` ago.

    Return whether this call migrated the schema. After the migration, processes of version 0.1 are
    not ready and can't create vaults. New vaults get format 2 (`VaultFormat`). A vault of format 1
    moves to format 2 at its first use that is at least `SETTLE_SECONDS` after the migration.

    Each call also removes from the table `vault_lookups` the old formats and scrypt costs that no
    vault has any more. Requests then compute fewer lookups of a password.
    """
    done = vault_lookups.end_fast_lookups(connection, after_seconds=after_seconds)
    if done:
        _log.info("the upgrade from version 0.1 is finished: new lookups cost a scrypt")
    vault_lookups.forget_unused(connection)
    return done
