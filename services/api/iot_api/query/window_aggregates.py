"""The aggregates of a series: how the values of a field in one window become one value.

Rounding errors stay small, even if the mean is much larger than the deviation. Sums are those of
`math.fsum`. Variances are merged as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances" (1979).
"""

import math
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Protocol

from .series_fields import Value
from .series_query import Aggregate

PLACED = {Aggregate.FIRST, Aggregate.LAST}
"""Aggregates whose values are tuples: the time and the id of the reading, then the value."""
NUMERIC = {Aggregate.MEAN, Aggregate.STDEV, Aggregate.MIN, Aggregate.MAX}
"""Aggregates of numbers only."""


class Window(Protocol):
    """The aggregate of one field in one window."""

    def add(self, values: list[Any]) -> None:
        """Add the values of further readings: at least one."""

    def result(self) -> Value:
        """Return the aggregate; None if it is not defined, such as the deviation of one value."""


class _Count:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def add(self, values: list[Any]) -> None:
        self.count += len(values)

    def result(self) -> int:
        return self.count


class _Mean:
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count, self.total = 0, 0.0

    def add(self, values: list[float]) -> None:
        self.count += len(values)
        try:
            self.total = math.fsum([self.total, *values])
        except (OverflowError, ValueError):  # beyond a double: the result is not finite
            self.total = math.nan

    def result(self) -> float | None:
        return _finite(self.total / self.count) if self.count else None


class _Stdev:
    """The sample standard deviation, with the divisor n - 1."""

    __slots__ = ("count", "mean", "squares")

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, values: list[float]) -> None:
        count = len(values)
        try:
            mean = math.fsum(values) / count
            squares = math.fsum([(value - mean) * (value - mean) for value in values])
        except (OverflowError, ValueError):
            mean = squares = math.nan
        total, apart = self.count + count, mean - self.mean
        self.mean += apart * count / total
        # In the first call, `apart * apart` may be infinite, and infinity * 0 is NaN.
        self.squares += squares + apart * (self.count * count / total) * apart
        self.count = total

    def result(self) -> float | None:
        if self.count <= 1:  # one value has no deviation
            return None
        return _finite(math.sqrt(self.squares / (self.count - 1)))


class _Best:
    __slots__ = ("_best", "_value")

    def __init__(self, best: Callable[[list[Any]], Any]) -> None:
        self._best = best
        self._value: Any = None

    def add(self, values: list[Any]) -> None:
        if self._value is not None:
            values.append(self._value)
        self._value = self._best(values)

    def result(self) -> Value:
        value: Value = self._value
        return value


class _BestPlaced(_Best):
    """The value of the first or the last reading, in the order of (time, id)."""

    __slots__ = ()

    def result(self) -> Value:
        value: Value = None if self._value is None else self._value[-1]
        return value


_placed = itemgetter(0, 1)
_WINDOWS: dict[Aggregate, Callable[[], Window]] = {
    Aggregate.COUNT: _Count,
    Aggregate.MEAN: _Mean,
    Aggregate.STDEV: _Stdev,
    Aggregate.MIN: lambda: _Best(min),
    Aggregate.MAX: lambda: _Best(max),
    Aggregate.FIRST: lambda: _BestPlaced(lambda placed: min(placed, key=_placed)),
    Aggregate.LAST: lambda: _BestPlaced(lambda placed: max(placed, key=_placed)),
}


def new_window(aggregate: Aggregate) -> Window:
    """Return an empty window."""
    return _WINDOWS[aggregate]()


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
