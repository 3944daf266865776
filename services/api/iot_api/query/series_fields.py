"""The values of fields of `freeform`, column by column.

A field is the name of a member of `freeform`, or the path to a member of an inner object.
`engine.speed` is the member of this name, or else the member `speed` of the object `engine`.

A value is a string, a number, true or false. An object or a list becomes a string: its JSON text. A
member that is missing, null, NaN or too large for a double has no value. If `freeform` is not an
object, no field has a value.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from operator import and_, attrgetter
from types import NoneType
from typing import Any

import msgspec

from iot_models.reading import SEPARATOR
from iot_models.segment import split_texts

from .large_freeform import (
    SMALL_BYTES,
    LargeFreeform,
    decode_leniently,
    finite_float,
    split_runs,
    text_of_container,
)
from .series_query import Condition

Value = str | int | float | None
"""The value of a field; None if there is no value. True and False are included, because bool is a
subclass of int."""

_SCALARS = {str, int, float, bool, NoneType}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_MAX_DIGITS = 400
"""A string with more characters counts as text, not as a number."""
_encoder = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one field."""

    values: list[Any]
    """The values; None for a reading without the field."""
    types: set[type]
    """The types of the values. The set may have more types than the values: if `cut` or `selected`
    leaves out all values of a type, the type stays in the set."""

    def cut(self, indices: slice) -> "Column":
        """Return the values at `indices`."""
        return Column(self.values[indices], self.types)

    def selected(self, kept: Iterable[bool]) -> "Column":
        """Return the values for which `kept` is true."""
        return Column(list(compress(self.values, kept)), self.types)


class FieldReader:
    """Reads the values of the same fields from many `freeform` texts."""

    def __init__(
        self, fields: Sequence[str], charge: Callable[[int], None] = lambda _: None
    ) -> None:
        """`charge` is called with each increase in memory for large texts, in bytes, and may
        raise."""
        self._charge = charge
        self._paths = {name: [name, *name.split(".")] for name in fields}
        members = {member for name, path in self._paths.items() for member in (name, path[1])}
        self._attributes = {member: f"f{number}" for number, member in enumerate(sorted(members))}
        attributes = [(attribute, Any, None) for attribute in self._attributes.values()]
        # msgspec takes no names that JSON escapes; `json` reads such fields.
        self._escapes = any(_ESCAPED.search(member) for member in members)
        members_by_attribute = {attribute: member for member, attribute in self._attributes.items()}
        rename = None if self._escapes else members_by_attribute
        row: Any = msgspec.defstruct("Fields", attributes, rename=rename, gc=False)
        self._row = row
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(list[row])

    def columns(self, texts: bytes, count: int) -> dict[str, Column]:
        """Return the column of each field. `texts` are `count` JSON texts, joined by `SEPARATOR`.

        Other greenlets run meanwhile if the texts are large.
        """
        if not self._paths:
            return {}
        if len(texts) <= SMALL_BYTES:
            return self._columns(texts, count)
        columns = {name: Column([], set()) for name in self._paths}
        for run in split_runs(texts):
            for name, part in self._columns(run, run.count(SEPARATOR) + 1).items():
                columns[name].values.extend(part.values)
                columns[name].types.update(part.types)
            time.sleep(0)
        return columns

    def _columns(self, texts: bytes, count: int) -> dict[str, Column]:
        if len(texts) > SMALL_BYTES:  # a single text
            values = self._large.values(texts)
            return {name: _column([value]) for name, value in values.items()}
        rows = self._rows(texts, count)
        return {name: _column(self._values(name, path, rows)) for name, path in self._paths.items()}

    @cached_property
    def _large(self) -> LargeFreeform:
        return LargeFreeform(self._paths, self._charge)

    def _rows(self, texts: bytes, count: int) -> list[Any]:
        if self._escapes:
            return [self._decoded_slowly(text) for text in split_texts(texts)]
        # One call for all texts takes a fifth of the time, and creates no string for each reading.
        with suppress(msgspec.DecodeError, RecursionError):  # a text holds NaN, or is not an object
            rows: list[Any] = self._many.decode(b"[%b]" % texts.replace(SEPARATOR, b","))
            if len(rows) == count:
                return rows
        return [self._decoded(text) for text in split_texts(texts)]

    def _decoded(self, text: str) -> Any:
        with suppress(msgspec.DecodeError, RecursionError):
            return self._one.decode(text)
        return self._decoded_slowly(text)

    def _decoded_slowly(self, text: str) -> Any:
        content = decode_leniently(text)
        if not isinstance(content, dict):
            return self._row()
        found = {attribute: content.get(member) for member, attribute in self._attributes.items()}
        return self._row(**found)

    def _values(self, name: str, path: list[str], rows: list[Any]) -> list[Any]:
        attribute = self._attributes[name]
        column = list(map(attrgetter(attribute), rows))
        if len(path) > len((name, name)):
            root, steps = self._attributes[path[1]], path[2:]
            column = [
                _member(getattr(row, root), steps) if value is None else value
                for row, value in zip(rows, column, strict=True)
            ]
        return column


def _column(values: list[Any]) -> Column:
    types = set(map(type, values))
    if not types <= _SCALARS:
        values = list(map(text_of_container, values))
        types = types - {dict, list} | {str}
    if int in types:
        try:
            _encoder.encode(values)  # the fastest way to find an integer of more than 64 bits
        except OverflowError:
            values = [_as_double(value) if type(value) is int else value for value in values]
            types |= {NoneType}
    return Column(values, types)


def _as_double(number: int) -> int | None:
    """Return `number`, still as an integer; None if it is too large for a double."""
    try:
        float(number)
    except OverflowError:
        return None
    return number


def _member(content: Any, steps: Iterable[str]) -> Any:
    for step in steps:
        if not isinstance(content, dict):
            return None
        content = content.get(step)
    return content


def keys_of(column: Column) -> list[Any]:
    """Return a key for each value. Values are grouped and compared by their keys.

    Equal values have equal keys. The keys of True and False are the strings `true` and `false`,
    because True equals 1 in Python.
    """
    if bool in column.types:
        return [str(value).lower() if isinstance(value, bool) else value for value in column.values]
    return column.values


def numbers_of(column: Column) -> Column:
    """Return the numbers of a column, and None for all other values.

    A string that contains a number counts as a number: some devices send all values as strings.
    """
    if column.types <= {int, float, NoneType}:
        return column
    return Column([_number(value) for value in column.values], {int, float, NoneType})


def _number(value: Value) -> int | float | None:
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_DIGITS or not _NUMBER.fullmatch(value):
        return None
    if not set(value) & set(".eE"):
        return _as_double(int(value))
    return finite_float(value)


def passing(conditions: Sequence[Condition], columns: Mapping[str, Column]) -> list[bool] | None:
    """Return for each row whether it passes all conditions; None if all rows do.

    A value passes if it equals the condition's string, or the number in that string. True and false
    count as the strings `true` and `false`.
    """
    passed: list[bool] | None = None
    for condition in conditions:
        wanted: set[Value] = {condition.value}
        number = _number(condition.value)
        if number is not None:
            wanted.add(number)
        found = [value in wanted for value in keys_of(columns[condition.field])]
        passed = found if passed is None else list(map(and_, passed, found))
    return None if passed is None or all(passed) else passed
