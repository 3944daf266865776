"""Adds each read to the audit log before its readings leave the process (`IOT_AUDIT_READS`)."""

import logging
import uuid

from iot_api.limits.clients import Client
from iot_models import metrics
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError, UnavailableError
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report

from .events import AuditEvents

_log = logging.getLogger(__name__)


class ReadRecord:
    """The records of one read in the audit log.

    If the number of readings is known before the first byte is sent, the read has one record:
    `read`, with the number of readings. Any other read has two records:

    - `read`, before the first byte is sent, without the number of readings.
    - `read_ended`, with the number of readings. It is recorded before the last byte is sent, or
      when the response ends early, for example because the client closes the connection.
    """

    def __init__(self, events: AuditEvents, vault_id: uuid.UUID, name: str, client: Client) -> None:
        """`name` says which readings are selected, for example `between 5 10`."""
        self._events = events
        self._fields = {
            "read": uuid.uuid4().hex[:16],
            "vault": str(vault_id),
            "range": name,
            **client.fields,
        }
        self._begun = False

    def begin(self) -> None:
        """Record the read before the first byte is sent, without the number of readings.

        Raises:
            UnavailableError: the read can't be recorded, so nothing may be sent.
        """
        self._record(AuditKind.READ)
        self._begun = True

    def end(self, readings: int) -> None:
        """Record the number of readings in a complete response.

        Call this before the last piece of the response is sent.

        Raises:
            UnavailableError: the read can't be recorded. Then the caller must not complete the
                response, and, if it has called `begin`, must call `abort`.
        """
        if self._begun:
            self._record(AuditKind.READ_ENDED, readings=readings, complete=True)
            self._begun = False
        else:
            self._record(AuditKind.READ, readings=readings)

    def abort(self, readings: int) -> None:
        """Record that a response was cut off after `readings` readings.

        No effect if `begin` has not succeeded, or if `end` has. A failure to write the record is
        only counted and logged.
        """
        if not self._begun:
            return
        self._begun = False
        try:
            self._record(AuditKind.READ_ENDED, readings=readings, complete=False)
        except UnavailableError as error:
            metrics.counter("iot_audit_unrecorded_total").inc()
            report(_log, "the end of a read is not recorded in the audit log", error)

    def _record(self, kind: AuditKind, **result: int) -> None:
        event = audit_event(kind, **self._fields, **result)
        try:
            self._events.record(event)
        except (*POSTGRES_UNAVAILABLE, IotError) as error:
            report(_log, "reads are refused, because the audit log can't record them", error)
            raise UnavailableError(
                "the read can't be recorded in the audit log (IOT_AUDIT_READS); try again"
            ) from error
