"""Adds events of an API process to the audit log."""

from iot_models.audit_event import AuditEvent
from iot_stores.audit import AuditLog
from iot_stores.postgres import Pool


class AuditEvents:
    """Appends events to the audit log in Postgres."""

    def __init__(self, log: AuditLog, pool: Pool) -> None:
        self._log = log
        self._pool = pool

    def record(self, event: AuditEvent) -> None:
        """Add an event. When this method returns, the event is durable.

        If the connection to Postgres breaks during the commit, the event may be recorded twice.

        Raises:
            UnavailableError: the database role has no permission to append to the audit log, or
                the database lacks the SQL function that appends.
            PoolBusyError: all connections of the pool are in use.
            POSTGRES_UNAVAILABLE: Postgres is away.
        """
        self._pool.run_idempotent(lambda connection: self._log.append(connection, event))
