"""A device's queue of readings that the service has not acknowledged yet."""

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Batch:
    """Readings of one request. All attempts to send them use the same `Idempotency-Key`."""

    readings: Sequence[dict[str, Any]]
    key: str = field(default_factory=lambda: str(uuid.uuid4()))


class DroppingQueue:
    """A queue of batches with `capacity` readings at most. When full, it drops the oldest batch.

    `waiting` is the number of readings in the queue, `dropped` the number of dropped readings.
    """

    def __init__(self, capacity: int) -> None:
        self._batches: deque[Batch] = deque()
        self._capacity = capacity
        self.waiting = 0
        self.dropped = 0

    def add(self, batch: Batch) -> None:
        """Add a batch. If there is no room, drop the oldest batches, but never the new one."""
        self._batches.append(batch)
        self.waiting += len(batch.readings)
        while self.waiting > self._capacity and len(self._batches) > 1:
            self.dropped += len(self.remove_first().readings)

    def first(self) -> Batch | None:
        """Return the batch to send next, None if the queue is empty."""
        return self._batches[0] if self._batches else None

    def remove_first(self) -> Batch:
        """Remove the first batch from the queue, and return it."""
        batch = self._batches.popleft()
        self.waiting -= len(batch.readings)
        return batch
