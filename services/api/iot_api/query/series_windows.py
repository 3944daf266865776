"""Windows of a series: aggregates of the readings of each step and group.

The values of some thousands of readings are collected, and then added to their windows together.
"""

import sys
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import compress, repeat
from operator import not_
from types import NoneType
from typing import Any

from iot_models.errors import InvalidRequestError

from .series_fields import Column, FieldReader, Value, keys_of, numbers_of, passing
from .series_query import COUNT, Aggregate, SeriesQuery
from .timed_rows import TimedColumns
from .window_aggregates import NUMERIC, PLACED, Window, new_window

MAX_VALUES = 500_000
"""Maximum number of values in an answer: windows times fields."""
MAX_TEXT_BYTES = 16 * 2**20
"""Limit of the memory of all texts that the windows of a request hold: values of the group fields,
and texts that are the first or last value of a window. A text of ASCII takes a byte a character,
another text takes up to four."""
MAX_READINGS = 50_000_000
"""Limit of the readings of one request: about a minute of work."""
_EMPTY_BYTES = sys.getsizeof("")
_WINDOW_BYTES = 400
"""Approximate memory of a window of one field, with its key."""
_PENDING = 32_768
"""Number of values that are collected before they are added to their windows."""
_PENDING_NUMBERS = 8 * _PENDING
"""Up to this many values are collected, in place of `_PENDING`, if there are many windows and the
aggregate is neither `first` nor `last`. Then a value takes little memory. Each time the collected
values are added, each window costs a microsecond, so adding values less often saves time."""

_PENDING_BYTES = 32 * 2**20
"""The collected values are added to their windows once their `freeform` texts have this many bytes.
A text counts once for each requested field."""

_FEW = 16
"""If a step has at least this many readings on average, the readings of a step are collected
together. Otherwise, each reading is collected by itself."""

Group = Any
"""The value of the group field if there is exactly one; otherwise a tuple of all group values."""
Key = tuple[int, Group]
"""The number of the step (its start time divided by the length of a step), and the group."""
Pending = defaultdict[int, defaultdict[Group, list[Any]]]
"""The collected values of one field, by number of the window and by group."""


class SeriesWindows:
    """The windows of a query. Add all readings, then take the rows."""

    def __init__(
        self, query: SeriesQuery, step: int, charge: Callable[[int], None] = lambda _: None
    ) -> None:
        """`step` is in milliseconds. `charge` is called as in `FieldReader`, and with the memory of
        new windows. It may raise UnavailableError, which ends the request.
        """
        self._charge = charge
        self._query = query
        self._step = step
        self._reader = FieldReader(query.read_fields, charge)
        self._windows: list[dict[Key, Window]] = [{} for _ in query.fields or (COUNT,)]
        self._keys: set[Key] = set()
        self._without_value: set[Key] = set()
        self._pending: list[Pending] = [_pending() for _ in self._windows]
        self._waiting = self._waiting_bytes = 0
        self._most_waiting = _PENDING
        self._text_bytes = 0
        self.readings = 0
        """Number of added readings, including readings that do not pass the conditions."""

    def add(self, readings: TimedColumns) -> None:
        """Add readings.

        Raises:
            InvalidRequestError: `MAX_READINGS`, `MAX_VALUES` or `MAX_TEXT_BYTES` is exceeded.
            UnavailableError: the memory of this process is used up.
        """
        self.readings += len(readings)
        if self.readings > MAX_READINGS:
            raise too_large(
                f"the range has more than {MAX_READINGS} readings", "from", "a shorter range"
            )
        columns = self._reader.columns(readings.texts, len(readings))
        by_receipt = self._query.by_receipt
        times = readings.received if by_receipt else readings.interrogator
        ids = readings.ids if self._query.aggregate in PLACED else times
        passed = passing(self._query.conditions, columns)
        if passed is not None:
            times, ids = list(compress(times, passed)), list(compress(ids, passed))
            columns = {name: column.selected(passed) for name, column in columns.items()}
        step = self._step if by_receipt else 1000 * self._step
        parts = _same_step(times, step) if by_receipt else _consecutive_steps(times, step)
        if parts is None:
            self._collect([time // step for time in times], times, ids, columns)
        elif len(parts) == 1:
            self._collect(parts[0][0], times, ids, columns)
        else:
            for number, part in parts:
                cut = {name: column.cut(part) for name, column in columns.items()}
                self._collect(number, times[part], ids[part], cut)
        self._waiting_bytes += len(readings.texts) * len(self._windows)
        if self._waiting >= self._most_waiting or self._waiting_bytes >= _PENDING_BYTES:
            self._flush()

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the rows, ordered by time and groups. A row has a time, groups and aggregates.

        Collected readings are added to their windows first: `rows` may raise the errors of `add`.
        """
        self._flush()
        try:
            keys = sorted(self._keys)
        except TypeError:  # a group has values of several types
            keys = sorted(self._keys, key=_order)
        nothing = new_window(self._query.aggregate)
        for key in keys:
            results = [windows.get(key, nothing).result() for windows in self._windows]
            yield key[0] * self._step, *_values_of(key[1]), *results

    def _collect(
        self,
        numbers: int | list[int],
        times: Sequence[int],
        ids: Sequence[int],
        columns: dict[str, Column],
    ) -> None:
        """Add readings to the pending values.

        `numbers` is the step number of all these readings, or a list with one for each reading.
        """
        keys = [keys_of(columns[name]) for name in self._query.groups]
        groups = keys[0] if len(keys) == 1 else list(zip(*keys, strict=True)) if keys else None
        aggregate = self._query.aggregate
        counted = [True] * len(times)
        if not self._query.fields:
            _append(self._pending[0], numbers, groups, counted)
        for pending, name in zip(self._pending, self._query.fields, strict=False):
            column = columns[name]
            if aggregate in NUMERIC:
                column = numbers_of(column)
            values = column.values
            if aggregate is Aggregate.COUNT:
                values = counted  # keeps no text in memory
            elif aggregate in PLACED:
                values = list(zip(times, ids, values, strict=True))
            if NoneType not in column.types:
                _append(pending, numbers, groups, values)
                continue
            present = [value is not None for value in column.values]
            every = repeat(numbers) if isinstance(numbers, int) else numbers
            keys_of_all = zip(every, groups or repeat(()), strict=False)
            self._without_value.update(compress(keys_of_all, map(not_, present)))
            _append(
                pending,
                numbers if isinstance(numbers, int) else list(compress(numbers, present)),
                None if groups is None else list(compress(groups, present)),
                list(compress(values, present)),
            )
        self._waiting += len(times) * len(self._windows)

    def _flush(self) -> None:
        self._waiting = self._waiting_bytes = 0
        new = self._without_value.union(*map(_keys_of, self._pending)) - self._keys
        self._without_value.clear()
        self._keys |= new
        if len(self._keys) * len(self._windows) > MAX_VALUES:
            raise too_large(
                f"the answer has more than {MAX_VALUES} values (steps * groups * fields)",
                "step",
            )
        self._charge(_WINDOW_BYTES * len(new) * len(self._windows))
        self._add_text_bytes(
            sum(_text_bytes(value) for _, group in new for value in _values_of(group))
        )
        for windows, pending in zip(self._windows, self._pending, strict=True):
            for number, lists in pending.items():
                for group, values in lists.items():
                    self._add_to_window(windows, (number, group), values)
            pending.clear()
        if self._query.aggregate not in PLACED:
            expected = len(self._keys) * len(self._windows)
            self._most_waiting = max(_PENDING, min(8 * expected, _PENDING_NUMBERS))

    def _add_to_window(self, windows: dict[Key, Window], key: Key, values: list[Any]) -> None:
        window = windows.get(key)
        if window is None:
            window = windows[key] = new_window(self._query.aggregate)
        if self._query.aggregate not in PLACED:
            window.add(values)
            return
        before = _text_bytes(window.result())
        window.add(values)
        self._add_text_bytes(_text_bytes(window.result()) - before)

    def _add_text_bytes(self, count: int) -> None:
        self._text_bytes += count
        if self._text_bytes > MAX_TEXT_BYTES:
            problem = f"the texts of groups and values take more than {MAX_TEXT_BYTES} bytes"
            raise too_large(problem, "group")


def _pending() -> Pending:
    return defaultdict(lambda: defaultdict(list))


def _same_step(times: Sequence[int], step: int) -> list[tuple[int, slice]] | None:
    """Return [(number of the step, slice of all `times`)] if all `times` are in one step.

    Return None if there are several steps, and [] if there are no times. The function is fast if
    many times are equal, as times of receipt are.
    """
    numbers = {time // step for time in set(times)}
    return None if len(numbers) > 1 else [(number, slice(0, len(times))) for number in numbers]


def _consecutive_steps(times: Sequence[int], step: int) -> list[tuple[int, slice]] | None:
    """Split ascending `times` into steps. Return (number of the step, slice of `times`) for each.

    Return None if a step has fewer than `_FEW` readings on average.
    """
    if not times:
        return []
    if (times[-1] // step - times[0] // step) * _FEW > len(times):
        return None
    parts, begin = [], 0
    while begin < len(times):
        number = times[begin] // step
        end = bisect_left(times, (number + 1) * step, begin)
        parts.append((number, slice(begin, end)))
        begin = end
    return parts


def _append(
    pending: Pending,
    numbers: int | list[int],
    groups: list[Group] | None,
    values: Sequence[Any],
) -> None:
    if isinstance(numbers, list):
        for number, group, value in zip(numbers, groups or repeat(()), values, strict=False):
            pending[number][group].append(value)
    elif groups is None:
        if values:  # otherwise `pending` would get a list without a value
            pending[numbers][()].extend(values)
    else:
        lists = pending[numbers]
        for group, value in zip(groups, values, strict=True):
            lists[group].append(value)


def _keys_of(pending: Pending) -> Iterator[Key]:
    return ((number, group) for number, lists in pending.items() for group in lists)


def _order(key: Key) -> tuple[Any, ...]:
    """Return a key that sorts windows by step, then by the values of their group.

    Numbers come first, then texts, then missing values.
    """
    number, group = key
    return number, *(
        (2, 0) if each is None else (isinstance(each, str), each) for each in _values_of(group)
    )


def _text_bytes(value: Value) -> int:
    return sys.getsizeof(value) - _EMPTY_BYTES if isinstance(value, str) else 0


def _values_of(group: Group) -> tuple[Any, ...]:
    return group if isinstance(group, tuple) else (group,)


def too_large(
    problem: str, field: str, remedy: str = "a longer step, fewer groups or a shorter range"
) -> InvalidRequestError:
    """Return the error for a series that exceeds a limit. `field` is the parameter to change."""
    return InvalidRequestError(f"{problem}: choose {remedy}", field=field)
