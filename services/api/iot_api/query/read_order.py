"""The two orders in which readings are given: by (interrogator timestamp, id), or the reverse."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

from iot_models.reading import Reading
from iot_models.segment import SegmentBounds
from iot_stores.interval_index import Position

position = attrgetter("interrogator_timestamp", "id")
"""Where a reading stands."""


@dataclass(frozen=True, slots=True)
class Order:
    """Keys of readings and of segments, which grow in this order."""

    descending: bool
    key: Callable[[Reading], Position]

    def place(self, at: Position) -> Position:
        """The key of a position."""
        return (-at[0], -at[1]) if self.descending else at

    def just_before(self, key: Position) -> Position:
        """The position right before the one with this key."""
        at, number = self.place(key)
        return at, number + 1 if self.descending else number - 1

    def begin(self, bounds: SegmentBounds) -> Position:
        """No reading of a segment comes before this."""
        if self.descending:
            return -bounds.interrogator_max, -bounds.last_id
        return bounds.interrogator_min, bounds.first_id

    def end(self, bounds: SegmentBounds) -> Position:
        """No reading of a segment comes after this."""
        if self.descending:
            return -bounds.interrogator_min, -bounds.first_id
        return bounds.interrogator_max, bounds.last_id


def _falling(reading: Reading) -> Position:
    return -reading.interrogator_timestamp, -reading.id


ASCENDING = Order(descending=False, key=position)
DESCENDING = Order(descending=True, key=_falling)
