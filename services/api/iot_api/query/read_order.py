"""The two orders of a read: by (interrogator timestamp, id), ascending or descending."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from iot_models.reading import Reading
from iot_models.segment import SegmentBounds
from iot_stores.interval_index import Position

position = attrgetter("interrogator_timestamp", "id")
"""The position of a reading."""


@dataclass(frozen=True, slots=True)
class Order:
    """Keys of readings and of segments that increase in this order.

    A key is the position, with both numbers negated for the descending order.
    """

    descending: bool
    key: Callable[[Reading], Position]

    def key_of(self, at: Position) -> Position:
        """Return the key of a position, or the position of a key."""
        return (-at[0], -at[1]) if self.descending else at

    def just_before(self, key: Position) -> Position:
        """Return the position directly before the one with this key."""
        at, number = self.key_of(key)
        return at, number + 1 if self.descending else number - 1

    def begin(self, bounds: SegmentBounds) -> Position:
        """Return a key that is not after any reading of a segment."""
        if self.descending:
            return -bounds.interrogator_max, -bounds.last_id
        return bounds.interrogator_min, bounds.first_id

    def end(self, bounds: SegmentBounds) -> Position:
        """Return a key that is not before any reading of a segment."""
        if self.descending:
            return -bounds.interrogator_min, -bounds.first_id
        return bounds.interrogator_max, bounds.last_id


def _descending_key(reading: Reading) -> Position:
    return -reading.interrogator_timestamp, -reading.id


ASCENDING = Order(descending=False, key=position)
DESCENDING = Order(descending=True, key=_descending_key)
