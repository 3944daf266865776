"""The values of fields of `freeform`, column by column.

A field is a member of the object, or a path. `engine.speed` means the member of this name. If there
is none, it means the member `speed` of the object `engine`.

A value is a string, a number, true or false. An object or a list counts as a string: its JSON text.
A member that is missing, null, NaN or infinite has no value. If `freeform` is not an object, no
field has a value.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from operator import and_, attrgetter
from typing import Any

import msgspec

from .series_query import Condition

Value = str | int | float | None
"""`None`: no value. bool is an int."""
Column = list[Any]
"""Of `Value`."""

_SCALARS = {str, int, float, bool, type(None)}
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_MAX_DIGITS = 400
"""A longer integer is beyond a double, and Python refuses to convert a much longer one."""


class FieldReader:
    """Reads the same fields of many texts."""

    def __init__(self, fields: Sequence[str]) -> None:
        self._paths = {name: [name, *name.split(".")] for name in fields}
        members = {member for name, path in self._paths.items() for member in (name, path[1])}
        self._attributes = {member: f"f{number}" for number, member in enumerate(sorted(members))}
        attributes = [(attribute, Any, None) for attribute in self._attributes.values()]
        # msgspec takes no names that JSON escapes: such fields are read by `json`.
        self._escapes = any(_ESCAPED.search(member) for member in members)
        members_by_attribute = {attribute: member for member, attribute in self._attributes.items()}
        rename = None if self._escapes else members_by_attribute
        row: Any = msgspec.defstruct("Fields", attributes, rename=rename, gc=False)
        self._row = row
        self._one = msgspec.json.Decoder(row)
        self._many = msgspec.json.Decoder(list[row])

    def columns(self, texts: Sequence[str]) -> dict[str, Column]:
        """Return the values of each field, in the order of the texts."""
        if not self._paths:
            return {}
        rows = self._rows(texts)
        return {name: self._column(name, path, rows) for name, path in self._paths.items()}

    def _rows(self, texts: Sequence[str]) -> list[Any]:
        if self._escapes:
            return [self._decoded_slowly(text) for text in texts]
        # One call for all texts takes a fifth of the time.
        with suppress(msgspec.DecodeError, RecursionError):  # a text holds NaN, or is no object
            rows: list[Any] = self._many.decode(f"[{','.join(texts)}]")
            if len(rows) == len(texts):
                return rows
        return [self._decoded(text) for text in texts]

    def _decoded(self, text: str) -> Any:
        with suppress(msgspec.DecodeError, RecursionError):
            return self._one.decode(text)
        return self._decoded_slowly(text)

    def _decoded_slowly(self, text: str) -> Any:
        content = None
        with suppress(ValueError, RecursionError):
            content = json.loads(
                text, parse_constant=lambda _: None, parse_float=_finite_float, parse_int=_integer
            )
            if "\\u" in text:
                content = _without_surrogates(content)
        if not isinstance(content, dict):
            return self._row()
        found = {attribute: content.get(member) for member, attribute in self._attributes.items()}
        return self._row(**found)

    def _column(self, name: str, path: list[str], rows: list[Any]) -> Column:
        attribute = self._attributes[name]
        column = list(map(attrgetter(attribute), rows))
        if len(path) > len((name, name)):
            root, steps = self._attributes[path[1]], path[2:]
            column = [
                _member(getattr(row, root), steps) if value is None else value
                for row, value in zip(rows, column, strict=True)
            ]
        if set(map(type, column)) <= _SCALARS:
            return column
        return list(map(_text_of_container, column))


def _without_surrogates(content: Any) -> Any:
    """Return what JSON holds with U+FFFD for each half of a surrogate pair, which UTF-8 lacks."""
    if isinstance(content, str):
        return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(content, list):
        return [_without_surrogates(each) for each in content]
    if isinstance(content, dict):
        return {
            _without_surrogates(member): _without_surrogates(each)
            for member, each in content.items()
        }
    return content


def _finite_float(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _integer(text: str) -> int | None:
    return int(text) if len(text) <= _MAX_DIGITS else None


def _member(content: Any, steps: Iterable[str]) -> Any:
    for step in steps:
        if not isinstance(content, dict):
            return None
        content = content.get(step)
    return content


def _text_of_container(content: Any) -> Value:
    if isinstance(content, dict | list):
        return json.dumps(content, separators=(",", ":"))
    value: Value = content
    return value


def keys_of(column: Column) -> Column:
    """Return a column of values that are equal only if they are the same value: 1 is not true."""
    if bool in set(map(type, column)):
        return [str(value).lower() if isinstance(value, bool) else value for value in column]
    return column


def numbers_of(column: Column) -> Column:
    """Return the numbers of a column, and None for all other values.

    A string that holds a number counts as one: some devices send all values as strings.
    """
    kinds = set(map(type, column))
    if kinds <= {int, float, type(None)}:
        return column
    return [_number(value) for value in column]


def _number(value: Value) -> int | float | None:
    if isinstance(value, bool) or value is None:
        return None
    if not isinstance(value, str):
        return value
    if len(value) > _MAX_DIGITS or not _NUMBER.fullmatch(value):
        return None
    return _finite_float(value) if set(value) & set(".eE") else int(value)


def passing(conditions: Sequence[Condition], columns: Mapping[str, Column]) -> list[bool] | None:
    """Return which rows pass all conditions; None if all rows do.

    A value passes if it is the string of the condition, or the same number.
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
