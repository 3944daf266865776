"""Chains new records of the audit log, and publishes the head of the chain."""

import logging
import struct
import time
from collections.abc import Callable

import psycopg
from redis.exceptions import RedisError

from iot_models import metrics
from iot_models.errors import IotError, SettingsError
from iot_stores.audit_chain import AuditChain, current_head, has_link
from iot_stores.audit_head import AuditHead, PublishedAuditHead
from iot_stores.postgres import Connection
from iot_stores.store_states import POSTGRES_UNAVAILABLE, is_server_state, report

BATCHES = 10
"""Maximum number of transactions of a run. A long audit log without links takes several runs."""
PAUSE_SECONDS = 10.0
"""Pause after an error of a store. An attempt to connect may block the writer for 3 s."""
LOG_SECONDS = 60.0
"""Shortest time between two log lines with a head."""

_log = logging.getLogger(__name__)


class AuditChainer:
    """Extends the chain of the audit log. Any number of writers may do so at the same time."""

    def __init__(self, chain: AuditChain, published: PublishedAuditHead) -> None:
        self._chain = chain
        self._published = published
        self._paused_until = 0.0
        self._logged: AuditHead | None = None
        self._logged_at = -LOG_SECONDS
        self._lost_logged_at = -LOG_SECONDS

    def run(self, connect: Callable[[], Connection], disconnect: Callable[[], None]) -> int:
        """Chain new records and publish the head. Return the number of chained records.

        `connect` returns the connection to Postgres; `disconnect` closes it after an error. Errors
        of the stores are logged, and a later run continues.
        """
        if time.monotonic() < self._paused_until:
            return 0
        try:
            return self._run(connect())
        except POSTGRES_UNAVAILABLE as error:
            if is_server_state(error):
                disconnect()
            report(_log, "the audit log is not chained", error)
        except SettingsError as error:  # a database has no schema while it is being restored
            report(_log, "the audit log is not chained", error)
        except RedisError as error:
            report(_log, "the head of the audit log is not published", error)
        except (psycopg.Error, IotError, struct.error) as error:  # somebody planted rows
            _log.error("the audit log can't be chained: %s; see `iot-sensor audit verify`", error)
        self._paused_until = time.monotonic() + PAUSE_SECONDS
        return 0

    def _run(self, connection: Connection) -> int:
        chained = 0
        for _ in range(BATCHES):
            batch = self._chain.extend(connection)
            chained += batch
            if not batch:
                break
        self._publish(connection)
        return chained

    def _publish(self, connection: Connection) -> None:
        # Read the published head before the chain is searched for it, because another writer may
        # publish a newer head meanwhile.
        published, readable = self._read_published()
        head = current_head(connection)
        # A head that the database lacks stays published, so that `audit verify` detects the loss.
        lost = not readable
        if published is not None:
            is_lower = head is None or head.sequence < published.sequence
            lost = is_lower or not has_link(connection, published)
        metrics.gauge("iot_audit_head_lost").set(int(lost))
        if lost:
            self._log_lost(published)
        elif head not in {None, published}:
            self._published.publish(head)
        if head is not None:
            self._show(head)

    def _read_published(self) -> tuple[AuditHead | None, bool]:
        """Return the head that is published in Redis, and whether the value in Redis is valid.

        Return (None, True) if no head is published.
        """
        try:
            return self._published.read(), True
        except ValueError:
            return None, False

    def _show(self, head: AuditHead) -> None:
        metrics.gauge("iot_audit_head").set(head.sequence)
        metrics.gauge("iot_audit_head_link").set(int.from_bytes(head.link[-6:], "big"))
        if head != self._logged and time.monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged, self._logged_at = head, time.monotonic()
            _log.info("head of the audit log: %s", head)

    def _log_lost(self, published: AuditHead | None) -> None:
        if time.monotonic() - self._lost_logged_at < LOG_SECONDS:
            return
        self._lost_logged_at = time.monotonic()
        _log.error(
            "the database lacks the published head of the audit log (%s): Postgres was restored, "
            "or somebody changed the audit log or Redis; see `iot-sensor audit verify`",
            published or "damaged",
        )
