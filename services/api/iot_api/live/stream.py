"""The bytes of one live stream."""

import logging
import random
import time
from collections.abc import Iterator

from redis.exceptions import RedisError

from iot_api.audit.reads import ReadRecord
from iot_models import metrics
from iot_models.errors import IotError, UnavailableError
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report

from .events import ReadingsEvent, error_event, events_of, heartbeat_event, open_event
from .feed import Joined
from .hub import LiveHub
from .position import LivePosition, encode_position

RETRY_MS = 1000
"""Shortest time after which a client should connect again. A random time is added, so that the
clients of a process that ended do not return at the same moment."""
CHECK_SECONDS = 1.0
"""Before an event, the token is checked again if its last check is older than this."""
MAX_ROUNDS = 5
"""Maximum number of times that a stream reads stored readings for a client that does not keep up
with the feed. After that, the client gets a summary of the readings that it lacks."""

_log = logging.getLogger(__name__)


class _ClientGoneError(Exception):
    """The client has closed the connection."""


class LiveStream:
    """The stream of one listener.

    The server ends the stream when the vault is erased or gets another password, when the client's
    token becomes invalid, or at a shutdown. A client may resume at an earlier position than the
    position of the feed. Then the stream reads the readings in between, at the pace of the client.
    """

    def __init__(
        self, hub: LiveHub, joined: Joined, record: ReadRecord | None, *, heartbeat_seconds: int
    ) -> None:
        """`record` adds the end of the stream to the audit log; None: reads are not audited."""
        self._hub = hub
        self._joined = joined
        self._listener = joined.listener
        self._vault_id = joined.feed.vault.vault_id.bytes
        self._position = joined.listener.joined_at
        self._record = record
        self._heartbeat_seconds = heartbeat_seconds
        self._allowed_at = time.monotonic()
        self._sent = 0
        self._retry_ms = RETRY_MS + random.randrange(RETRY_MS)  # noqa: S311 - no secret

    def pieces(self) -> Iterator[bytes]:
        """Yield the events. The last event is an error event, unless the client is gone."""
        count = metrics.counter("iot_live_events_total").labels
        try:
            # With another request, the client can read all readings received before `now`.
            now = self._hub.source.time()
            count("open").inc()
            yield open_event(now, self._id(), self._retry_ms, self._heartbeat_seconds)
            for event in self._missed():
                # Check before each event: a slow client may take hours to catch up.
                self._check()
                yield self._use(event)
            while True:
                new = self._listener.take(self._heartbeat_seconds)
                if new is not None:
                    self._check()
                    yield self._use(new)
                else:
                    self._check_connection()
                    self._check_token()
                    self._position = self._joined.position_now(self._position)
                    count("heartbeat").inc()
                    yield heartbeat_event(_now_ms(), self._id())
        except _ClientGoneError:
            return
        except IotError as error:
            count("error").inc()
            yield error_event(error, self._retry_ms)
        except (RedisError, *POSTGRES_UNAVAILABLE) as error:
            report(_log, "live streams end", error)
            count("error").inc()
            yield error_event(UnavailableError("a store is away; connect again"), self._retry_ms)
        finally:
            self.close()

    def close(self) -> None:
        """Remove the listener. Idempotent."""
        self._hub.close(self._listener)
        if self._record is not None:
            self._record.abort(self._sent)

    def _missed(self) -> Iterator[ReadingsEvent]:
        """Yield the readings between the client's position and the feed's position.

        If the feed leaves out events meanwhile, their readings are read from the stores, too.
        """
        yield from self._stored_until(self._joined.until)
        for _ in range(MAX_ROUNDS - 1):
            skipped_to = self._listener.skipped_to()
            if skipped_to is None:
                return
            yield from self._stored_until(skipped_to)

    def _stored_until(self, until: LivePosition) -> Iterator[ReadingsEvent]:
        vault = self._joined.feed.vault
        for rows in self._hub.source.between(vault, self._position, until):
            self._listener.raise_ending()
            yield from events_of(rows, self._position, self._vault_id)
            self._position = self._position.advanced(rows.position.ids, rows.position.since)

    def _use(self, event: ReadingsEvent) -> bytes:
        self._position = self._position.advanced(event.position.ids, event.position.since)
        self._sent += event.readings
        metrics.counter("iot_live_readings_skipped_total").inc(event.skipped)
        kind = "readings" if event.readings else "summary"
        metrics.counter("iot_live_events_total").labels(kind).inc()
        metrics.counter("iot_live_readings_sent_total").inc(event.readings)
        return event.text

    def _id(self) -> str:
        return encode_position(self._position, self._vault_id)

    def _check(self) -> None:
        """Raise the reason why the stream ends, if it must end before the next readings.

        Raises:
            RedisError: it is unknown whether the password was changed.
        """
        self._check_connection()
        self._hub.catch_up()
        self._listener.raise_ending()
        self._check_token()

    def _check_connection(self) -> None:
        """Raise `_ClientGoneError` if the client is gone.

        The kernel accepts the first event that is sent to a client that is gone. So without this
        check, the event's readings would count as sent.
        """
        if self._listener.is_gone():
            raise _ClientGoneError

    def _check_token(self) -> None:
        """Raise an `IotError` if the client may not read any more.

        The client's token is checked at most once in `CHECK_SECONDS`.
        """
        now = time.monotonic()
        if now - self._allowed_at >= CHECK_SECONDS:
            self._allowed_at = now
            self._listener.still_allowed()


def _now_ms() -> int:
    return int(time.time() * 1000)
