"""Readings that were taken and are not yet acknowledged."""

import uuid
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Batch:
    """Readings of one request; the key stays the same however often it is sent."""

    readings: Sequence[dict[str, Any]]
    key: str = field(default_factory=lambda: str(uuid.uuid4()))


class Outbox:
    """Keeps batches in order until they are acknowledged, at most `capacity` readings.

    Beyond it the oldest batch is given up, and counted in `given_up`.
    """

    def __init__(self, capacity: int) -> None:
        self._batches: deque[Batch] = deque()
        self._capacity = capacity
        self.waiting = 0
        self.given_up = 0

    def add(self, batch: Batch) -> None:
        """Keep a batch, at the cost of the oldest ones if there is no room."""
        self._batches.append(batch)
        self.waiting += len(batch.readings)
        while self.waiting > self._capacity and len(self._batches) > 1:
            self.given_up += len(self._remove().readings)

    def first(self) -> Batch | None:
        """The batch to send next, which stays here until `remove_first`."""
        return self._batches[0] if self._batches else None

    def remove_first(self) -> None:
        """Forget the first batch: it was acknowledged, or refused for good."""
        self._remove()

    def _remove(self) -> Batch:
        batch = self._batches.popleft()
        self.waiting -= len(batch.readings)
        return batch
