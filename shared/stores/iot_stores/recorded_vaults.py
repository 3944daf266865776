"""Changes of vaults in Postgres, each in one statement with its record in the audit log."""

import logging
from collections.abc import Sequence
from typing import LiteralString

from iot_models import metrics
from iot_models.audit_event import AuditEvent

from .audit import CANT_APPEND, AuditLog, appending
from .postgres import Connection, short_query

COLUMNS: LiteralString = "vault_id, lookup, salt, scrypt_log2_n, wrapped_key"
REPLACE: LiteralString = """
    UPDATE vaults
    SET lookup = %s, salt = %s, scrypt_log2_n = %s, wrapped_key = %s, lookup_format = %s
    WHERE vault_id = %s AND wrapped_key = %s
"""
_INSERT: LiteralString = f"""
    INSERT INTO vaults ({COLUMNS}, lookup_format)
    VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (lookup) DO NOTHING
"""  # noqa: S608 - composed of constants


def _recorded(statement: LiteralString) -> LiteralString:
    """Return `statement`, extended to append a record to the audit log if it changes a row.

    The extended statement has one more parameter, the sealed record. `statement` must change at
    most one row: each changed row appends the record.
    """
    return f"WITH changed AS ({statement} RETURNING 1) SELECT record_audit_event(%s) FROM changed"  # noqa: S608 - composed of constants


_RECORDED_INSERT = _recorded(_INSERT)
_RECORDED_REPLACE = _recorded(REPLACE)

_log = logging.getLogger(__name__)


def insert_vault(
    connection: Connection, audit: AuditLog | None, values: Sequence[object], event: AuditEvent
) -> bool:
    """Insert a vault, and append `event` to the audit log. Return False if its lookup is taken.

    Without `audit`, nothing is appended. If the database can't append to the audit log, for example
    before the migration, insert the vault nevertheless: readings matter more than the audit log.
    """
    if audit is None:
        return connection.execute(_INSERT, values).rowcount > 0
    try:
        inserted = connection.execute(_RECORDED_INSERT, (*values, audit.seal(event))).rowcount > 0
        metrics.counter("iot_audit_recorded_total").inc(inserted)
    except CANT_APPEND as error:
        inserted = connection.execute(_INSERT, values).rowcount > 0
        if inserted:
            metrics.counter("iot_audit_unrecorded_total").inc()
            _log.error("a vault was created without a record in the audit log: %s", error)
    return inserted


def replace_vault(
    connection: Connection, audit: AuditLog, values: Sequence[object], event: AuditEvent
) -> bool:
    """Replace the record of a vault, and append `event` to the audit log.

    `values`: the parameters of `REPLACE`. The last one is the wrapped key of the old record. Return
    False, and change nothing, if the vault no longer has this wrapped key.

    Raises:
        UnavailableError: the database can't append to the audit log. Nothing was changed.
    """
    with appending():
        parameters = (*values, audit.seal(event))
        replaced = short_query(connection, _RECORDED_REPLACE, parameters).rowcount > 0
    metrics.counter("iot_audit_recorded_total").inc(replaced)
    return replaced
