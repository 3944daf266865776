"""One listener of a live stream: the events that wait for it, within a limit."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from threading import Condition

from iot_api.limits.clients import Client
from iot_cipher.vault import VaultRecord
from iot_models.errors import IotError

from .events import ReadingsEvent, summary_event
from .live_rows import Skipped
from .position import LivePosition

MAX_WAITING_BYTES = 2**20
"""Limit of the total size of the events that wait for one listener. One event alone may be
larger."""
MAX_ALL_WAITING_BYTES = 32 * 2**20
"""Limit of the total size of the events that wait for all listeners of a process. Each listener may
have one waiting event in any case."""


@dataclass(slots=True)
class WaitingBytes:
    """The total size of the events that wait in all listeners of a process."""

    total: int = 0


class Listener:
    """The events that wait for one client. A client that reads too slowly gets a summary."""

    def __init__(
        self,
        client: Client,
        record: VaultRecord,
        position: LivePosition,
        still_allowed: Callable[[], object],
        is_gone: Callable[[], bool],
        all_waiting: WaitingBytes,
    ) -> None:
        """The client has all readings up to `position`. `still_allowed` raises an `IotError` once
        the client may not read any more. `is_gone` returns whether the client has closed the
        connection.
        """
        self.client = client
        self.record = record
        self.joined_at = position
        """The client's position when this object was created."""
        self.still_allowed = still_allowed
        self.is_gone = is_gone
        self._all_waiting = all_waiting
        self._waiting: deque[ReadingsEvent] = deque()
        self._bytes = 0
        self._skipped: Skipped | None = None
        self._skipped_to: LivePosition | None = None
        self._ending: IotError | None = None
        self._changed = Condition()

    def offer(self, event: ReadingsEvent) -> None:
        """Add an event, unless the stream has ended. Never blocks.

        If too many events wait, replace them and `event` with a summary.
        """
        with self._changed:
            size = len(event.text)
            if self._ending is not None:
                return
            if self._skipped is not None:
                self._skip(event)
            elif self._waiting and (
                self._bytes + size > MAX_WAITING_BYTES
                or self._all_waiting.total + size > MAX_ALL_WAITING_BYTES
            ):
                for waiting in self._waiting:
                    self._skip(waiting)
                self._skip(event)
                self._drop()
            else:
                self._waiting.append(event)
                self._add_bytes(size)
            self._changed.notify_all()

    def end(self, reason: IotError) -> None:
        """End the stream for `reason`, and drop the waiting events.

        A client that connects again resumes behind the last event that it received.
        """
        with self._changed:
            self._ending = self._ending or reason
            self._drop()
            self._changed.notify_all()

    def take(self, seconds: float) -> ReadingsEvent | None:
        """Wait up to `seconds` for the next event. Return None if none comes.

        Raises:
            IotError: the reason why the stream ends.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                if self._ending is not None:
                    raise self._ending
                if self._waiting:
                    event = self._waiting.popleft()
                    self._add_bytes(-len(event.text))
                    return event
                if self._skipped is not None and self._skipped_to is not None:
                    return self._summary(self._skipped, self._skipped_to)
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)

    def skipped_to(self) -> LivePosition | None:
        """Return the position behind the events that were left out; None if none was left out.

        The listener forgets these events: `take` returns no summary of them.
        """
        with self._changed:
            position, self._skipped, self._skipped_to = self._skipped_to, None, None
            return position

    @property
    def is_idle(self) -> bool:
        """Whether no event waits."""
        return not self._waiting and self._skipped is None

    def raise_ending(self) -> None:
        """If `end` was called, raise its reason."""
        if self._ending is not None:
            raise self._ending

    def _add_bytes(self, count: int) -> None:
        self._bytes += count
        self._all_waiting.total += count

    def _drop(self) -> None:
        self._waiting.clear()
        self._add_bytes(-self._bytes)

    def _summary(self, skipped: Skipped, position: LivePosition) -> ReadingsEvent:
        self._skipped = self._skipped_to = None
        return summary_event(skipped, position, self.record.vault_id.bytes)

    def _skip(self, event: ReadingsEvent) -> None:
        count, begin, end = event.readings + event.skipped, event.begin, event.end
        if self._skipped is not None:
            count += self._skipped.count
            begin, end = min(begin, self._skipped.begin), max(end, self._skipped.end)
        self._skipped, self._skipped_to = Skipped(count, begin, end), event.position
