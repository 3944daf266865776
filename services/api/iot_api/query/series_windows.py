"""Windows of a series: aggregates of the readings of each step and group.

The values of some thousands of readings are collected for each window, and then added to it at
once. The result is exact: sums are those of `math.fsum`, and variances are merged as Chan, Golub
and LeVeque describe ("Updating Formulae and a Pairwise Algorithm for Computing Sample Variances",
1979), which loses no digits when the mean is large. numpy would be no faster, because most of the
time goes into decrypting and parsing.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress
from operator import itemgetter
from typing import Any, Protocol

from iot_models.errors import InvalidRequestError
from iot_models.reading import Reading

from .series_fields import Column, FieldReader, Value, keys_of, numbers_of, passing
from .series_query import COUNT, Aggregate, SeriesQuery
from .timed_rows import columns_of, times_of

MAX_VALUES = 500_000
"""Limit of windows times fields."""
MAX_TEXT_BYTES = 16 * 2**20
"""Limit of the texts of all groups, and of the first and last values."""
MAX_READINGS = 50_000_000
"""Limit of the readings of one request: about a minute of work."""
_WINDOW_BYTES = 400
"""Approximate memory of a window of one field, with its key."""
_PENDING = 32_768
"""Values that wait to be added to their windows."""

Key = tuple[Any, ...]
"""Number of the step, and the value of each group."""


class Window(Protocol):
    """The aggregate of one field in one window."""

    def add(self, values: list[Any]) -> None:
        """Add values. There is at least one."""

    def result(self) -> Value:
        """Return the aggregate; None if it is not defined."""


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
    """The sample standard deviation, with n - 1."""

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
        self.squares += squares + apart * apart * self.count * count / total
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
    """The first or last of (time, id, value)."""

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
_PLACED = {Aggregate.FIRST, Aggregate.LAST}
_NUMERIC = {Aggregate.MEAN, Aggregate.STDEV, Aggregate.MIN, Aggregate.MAX}


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


class SeriesWindows:
    """The windows of a query. Add all readings, then take the rows."""

    def __init__(
        self, query: SeriesQuery, step: int, charge: Callable[[int], None] = lambda _: None
    ) -> None:
        """`charge` is called with the bytes of memory of new windows; it may raise."""
        self._charge = charge
        self._query = query
        self._step = step
        conditions = [condition.field for condition in query.conditions]
        self._reader = FieldReader([*query.fields, *query.groups, *conditions])
        self._windows: list[dict[Key, Window]] = [{} for _ in query.fields or (COUNT,)]
        self._keys: set[Key] = set()
        self._without_value: set[Key] = set()
        self._pending: list[defaultdict[Key, list[Any]]] = [
            defaultdict(list) for _ in self._windows
        ]
        self._waiting = 0
        self._text_bytes = 0
        self.readings = 0
        """Number of readings that were added, whether they pass the conditions or not."""

    def add(self, batch: Sequence[Reading]) -> None:
        """Add readings that were read as `TimedRows`.

        Raises:
            InvalidRequestError: there are too many windows or readings.
            UnavailableError: the memory of this process is used up.
        """
        self.readings += len(batch)
        if self.readings > MAX_READINGS:
            raise _too_large(f"the range holds more than {MAX_READINGS} readings", "from")
        readings = columns_of(batch)
        columns = self._reader.columns(readings.freeform)
        times, ids = times_of(self._query, readings), readings.ids
        passed = passing(self._query.conditions, columns)
        if passed is not None:
            times, ids = list(compress(times, passed)), list(compress(ids, passed))
            columns = {name: list(compress(column, passed)) for name, column in columns.items()}
        self._collect(times, ids, columns)
        if self._waiting >= _PENDING:
            self._flush()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in the order of time and groups: time, groups, fields."""
        self._flush()
        try:
            keys = sorted(self._keys)
        except TypeError:  # a group has values of several types
            keys = sorted(self._keys, key=lambda key: (key[0], *map(str, key[1:])))
        nothing = _WINDOWS[self._query.aggregate]()
        for key in keys:
            results = [windows.get(key, nothing).result() for windows in self._windows]
            yield key[0] * self._step, *key[1:], *results

    def _collect(
        self, times: Sequence[int], ids: Sequence[int], columns: dict[str, Column]
    ) -> None:
        step = self._step
        groups = [keys_of(columns[name]) for name in self._query.groups]
        keys = list(zip([time // step for time in times], *groups, strict=True))
        aggregate = self._query.aggregate
        if not self._query.fields:
            _append(self._pending[0], keys, keys)
        for pending, name in zip(self._pending, self._query.fields, strict=False):
            column = columns[name]
            if aggregate in _NUMERIC:
                column = numbers_of(column)
            values = column
            if aggregate in _PLACED:
                values = list(zip(times, ids, column, strict=True))
            if None in column:
                self._without_value.update(keys)
                has_value = [value is not None for value in column]
                _append(pending, compress(keys, has_value), compress(values, has_value))
            else:
                _append(pending, keys, values)
        self._waiting += len(times) * len(self._windows)

    def _flush(self) -> None:
        """Add what waits to the windows."""
        self._waiting = 0
        new = self._without_value.union(*self._pending) - self._keys
        self._without_value.clear()
        self._keys |= new
        if len(self._keys) * len(self._windows) > MAX_VALUES:
            raise _too_large(
                f"the answer has more than {MAX_VALUES} values (steps, times groups, times fields)",
                "step",
            )
        self._charge(_WINDOW_BYTES * len(new) * len(self._windows))
        self._charge_texts(value for key in new for value in key)
        create = _WINDOWS[self._query.aggregate]
        for windows, pending in zip(self._windows, self._pending, strict=True):
            for key, values in pending.items():
                window = windows.get(key)
                if window is None:
                    window = windows[key] = create()
                window.add(values)
                if self._query.aggregate in _PLACED:
                    self._charge_texts([window.result()])
            pending.clear()

    def _charge_texts(self, values: Iterable[Value]) -> None:
        self._text_bytes += sum(len(value) for value in values if isinstance(value, str))
        if self._text_bytes > MAX_TEXT_BYTES:
            raise _too_large("the values of groups and the first or last values are long", "group")


def _append(
    pending: defaultdict[Key, list[Any]], keys: Iterable[Key], values: Iterable[Any]
) -> None:
    for key, value in zip(keys, values, strict=True):
        pending[key].append(value)


def _too_large(problem: str, field: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{problem}: choose a longer step, fewer groups or a shorter range", field=field
    )
