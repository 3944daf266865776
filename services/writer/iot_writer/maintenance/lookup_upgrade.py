"""The end of an upgrade from version 0.1: new lookups are created once its processes are gone."""

import logging

from iot_stores import vault_lookups
from iot_stores.postgres import Connection

_log = logging.getLogger(__name__)


def advance(connection: Connection, *, after_seconds: float) -> bool:
    """Bring schema 0003 to 0004 when it is `after_seconds` old; True if that was done now.

    From then on processes of version 0.1 are not ready, what they try to create is refused, and
    every vault of format 1 moves to format 2 when it is used. Lookups that no vault has any more
    are forgotten.
    """
    done = vault_lookups.end_fast_lookups(connection, after_seconds=after_seconds)
    if done:
        _log.info("new vaults have a lookup that costs a scrypt from now on")
    vault_lookups.forget_unused(connection)
    return done
