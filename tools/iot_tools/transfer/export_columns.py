"""The columns of an exported file. With `--flatten`, members of `freeform` become columns."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from iot_models.errors import IotError
from iot_models.reading import INT64_MAX, INT64_MIN, Reading

from .import_row import MAX_DIGITS, meant_name

MAX_MEMBERS = 1_000
"""Largest number of members of `freeform` that can become columns."""
_MAX_DEPTH = 100
"""Depth of nested objects down to which members become columns. A deeper object becomes one column,
as JSON text."""
Cell = int | float | bool | str | None


class Kind(Enum):
    """The type of a column."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    FLOAT = "float"
    TEXT = "text"
    """Texts. Values that fit no other type of column, such as lists, become JSON text."""


OWN = ("id", "absolute_timestamp", "relative_timestamp", "interrogator_timestamp", "freeform")
"""The columns that every file has."""
_PREFIX = "freeform."


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a file: those in `OWN`, such as `id`, then those for members of `freeform`.

    `members` has the name and the type of each flattened member. The name is the path of the member
    in `freeform`, joined by dots, for example `engine.speed`.
    """

    members: tuple[tuple[str, Kind], ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of all columns.

        The column of a member has the member's name. If `iot-sensor import` gives this name
        another meaning (`meant_name`, `data`), the prefix `freeform.` is added: the member `id` has
        the column `freeform.id`. The prefix is also added to a name that begins with it, so that
        all names differ: the member `freeform.id` has the column `freeform.freeform.id`.
        """
        return [*OWN, *(_column_name(name) for name, _ in self.members)]

    def cells(self, reading: Reading) -> list[Cell]:
        """Return the value of each column for a reading, None for a member that is missing."""
        own: list[Cell] = [
            reading.id, reading.absolute_timestamp, reading.relative_timestamp,
            reading.interrogator_timestamp, reading.freeform,
        ]  # fmt: skip
        if self.members:
            found = dict(_members(_decoded(reading.freeform)))
            own += [_cell(found.get(name), kind) for name, kind in self.members]
        return own


def _column_name(member: str) -> str:
    taken = meant_name(member) is not None or member == "data" or member.startswith(_PREFIX)
    return _PREFIX + member if taken else member


def flattened_columns(readings: Iterable[Reading]) -> Columns:
    """Return the columns for the members that occur in the `freeform` of any of these readings.

    Members come in the order of their first appearance, and nested objects are flattened, too. A
    list becomes JSON text. A member that is null in every reading has no column.

    Raises:
        IotError: there are more than `MAX_MEMBERS` members.
    """
    kinds: dict[str, Kind] = {}
    for reading in readings:
        for name, value in _members(_decoded(reading.freeform)):
            if value is None:
                continue
            kind = _kind(value)
            known = kinds.get(name)
            if known is not kind:
                kinds[name] = kind if known is None else _common(known, kind)
                if len(kinds) > MAX_MEMBERS:
                    raise IotError(
                        f"freeform has more than {MAX_MEMBERS} different members; export without "
                        "--flatten"
                    )
    return Columns(tuple(kinds.items()))


def _decoded(freeform: str) -> object:
    """Decode a `freeform`. An integer of more than `MAX_DIGITS` digits becomes a text."""
    return json.loads(freeform, parse_int=_integer)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _members(value: object, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        return
    for name, member in value.items():
        if isinstance(member, dict) and member and depth < _MAX_DEPTH:
            yield from _members(member, f"{prefix}{name}.", depth + 1)
        else:
            yield _unicode(prefix + name), member


def _unicode(text: str) -> str:
    """Replace each lone surrogate with its escape, because UTF-8 can't encode surrogates."""
    return text.encode(errors="backslashreplace").decode()


def _kind(value: object) -> Kind:
    if isinstance(value, bool):
        return Kind.BOOLEAN
    if isinstance(value, int):
        return Kind.INTEGER if INT64_MIN <= value <= INT64_MAX else Kind.TEXT
    return Kind.FLOAT if isinstance(value, float) else Kind.TEXT


def _common(one: Kind, other: Kind) -> Kind:
    return Kind.FLOAT if {one, other} == {Kind.INTEGER, Kind.FLOAT} else Kind.TEXT


def _cell(value: object, kind: Kind) -> Cell:
    if value is None:
        return None
    if kind is Kind.TEXT:
        return _unicode(value) if isinstance(value, str) else json.dumps(value)
    if isinstance(value, bool | int | float):
        return float(value) if kind is Kind.FLOAT else value
    return None
