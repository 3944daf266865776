"""The body of a PUT: JSON of one or many `{"data": {...}}`, read into columns, whole or not at all.

No step between the JSON decoder and the columns works on one reading at a time, but for times
that are not plain integers.
"""

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn, Protocol

import msgspec

from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.reading import MISSING_TIME, SEPARATOR, ReadingColumns
from iot_models.settings import Settings
from iot_models.times import parse_time, parse_time_or_date

Time = int | float | str

_PATH = re.compile(r" - at `\$(?:\[(\d+)\])?(\.data)?(?:\.(\w+))?`$")
_WRONG_KIND = {
    "data": "is not an object",
    "db_password": "is not a string",
    "relative_time": "is not a number",
    "interrogator_time": "is neither a number nor a date",
}
_NOT_PRINTABLE = re.compile(r"[^\x00-\x7e]")


class _Hidden(msgspec.Struct, gc=False):
    """A part of a request, which nothing prints."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class _Data(_Hidden, gc=False):
    db_password: str = ""
    relative_time: Time = MISSING_TIME
    interrogator_time: Time = MISSING_TIME
    freeform: msgspec.Raw = msgspec.Raw(b'""')


class _Row(_Hidden, gc=False):
    data: _Data


# The decoder says so of both.
_TRUNCATED = {"Input data was truncated": "it ends too early, or holds half a surrogate pair"}

_one = msgspec.json.Decoder(_Row)
_many = msgspec.json.Decoder(list[_Row])


@dataclass(slots=True)
class Batch:
    """Readings of one request under one password, in the order in which they came."""

    password: bytes = field(repr=False)
    readings: ReadingColumns = field(repr=False)


class PutParser(Protocol):
    """`parse_put` with the limits that are set."""

    def __call__(self, body: bytes, *, lines: bool = False) -> list[Batch]:
        """The readings of a PUT."""


def put_parser(settings: Settings) -> PutParser:
    """`parse_put` with the limits of these settings."""
    return partial(
        parse_put,
        max_readings=settings.max_readings,
        max_password_bytes=settings.max_password_bytes,
        max_passwords=settings.max_passwords,
    )


def parse_put(
    body: bytes,
    *,
    max_readings: int,
    max_password_bytes: int,
    max_passwords: int,
    lines: bool = False,
) -> list[Batch]:
    """The readings of a PUT, by password; with `lines` the body is NDJSON.

    Raises:
        InvalidRequestError: names the row (from 0) and the field that is wrong.
        TooLargeError: more than `max_readings`, or under more than `max_passwords`.
    """
    rows = [] if not body or body.isspace() else _decode(body, lines=lines)
    if not rows:
        raise InvalidRequestError("the request holds no readings")
    if len(rows) > max_readings:
        raise TooLargeError(
            f"a request may hold {max_readings} readings, this one holds {len(rows)}",
            limit=max_readings,
        )
    groups = _by_password([row.data for row in rows])
    if len(groups) > max_passwords:
        # Each may cost a scrypt.
        raise TooLargeError(
            f"a request may bring {max_passwords} passwords, this one brings {len(groups)}",
            limit=max_passwords,
        )
    return [
        Batch(password_bytes(password, max_password_bytes, row=numbers[0]), _columns(numbers, some))
        for password, (numbers, some) in groups.items()
    ]


def _by_password(rows: list[_Data]) -> dict[str, tuple[Sequence[int], list[_Data]]]:
    """The rows of each password with their numbers in the request, in the order of both."""
    passwords = dict.fromkeys([row.db_password for row in rows])
    if len(passwords) == 1:
        return dict.fromkeys(passwords, (range(len(rows)), rows))
    groups: dict[str, tuple[list[int], list[_Data]]] = {each: ([], []) for each in passwords}
    for number, row in enumerate(rows):
        numbers, some = groups[row.db_password]
        numbers.append(number)
        some.append(row)
    return {**groups}


def _decode(body: bytes, *, lines: bool) -> list[_Row]:
    try:
        if not body.isascii():
            body.decode("utf-8")
        if lines:
            return _one.decode_lines(body)
        if body.lstrip()[:1] == b"{":
            return [_one.decode(body)]
        return _many.decode(body)
    except UnicodeDecodeError:
        raise InvalidRequestError("the request is not UTF-8") from None
    except RecursionError:
        raise InvalidRequestError("the request's JSON is nested too deep") from None
    except msgspec.ValidationError as error:
        _refuse(str(error))
    except (msgspec.DecodeError, ValueError) as error:
        problem = _TRUNCATED.get(str(error), str(error))
        if lines:
            refuse_row(_bad_line(body), "data", f"is not JSON: {problem}")
        raise InvalidRequestError(f"the request is not JSON: {problem}") from None


def _bad_line(body: bytes) -> int:
    """The first line of NDJSON that is no row, counted from 0 without the empty ones."""
    filled = [line for line in body.split(b"\n") if line.strip()]
    for number, line in enumerate(filled):
        try:
            _one.decode(line)
        except (msgspec.DecodeError, ValueError):
            return number
    return 0


def _refuse(problem: str) -> NoReturn:
    """Turn the decoder's `Expected ... - at `$[3].data.relative_time`` into row, field, words."""
    if problem.startswith("Expected `array`"):
        raise InvalidRequestError("the request must be an object or a list of objects")
    found = _PATH.search(problem)
    row, within, field = found.groups() if found else (None, None, None)
    if problem.startswith("Object missing"):
        sentence = "is missing"
    elif problem.startswith("Number out of range"):
        sentence = "is beyond 64 bits"
    elif found and not within:
        sentence = "is missing, the row is not an object"
    else:
        sentence = _WRONG_KIND.get(field or "data", "is not understood")
    refuse_row(int(row or 0), field or "data", sentence)


def refuse_row(row: int, field: str, problem: str) -> NoReturn:
    """Raise the error that names a row and its field."""
    raise InvalidRequestError(f"row {row}, {field}: {problem}", row=row, field=field)


def password_bytes(password: str, limit: int, *, row: int | None = None) -> bytes:
    """The password, which stands in a row if any, in UTF-8; refused when it is longer than `limit`
    bytes.
    """
    encoded = password.encode()
    if len(encoded) <= limit:
        return encoded
    problem = f"is longer than {limit} bytes"
    if row is not None:
        refuse_row(row, "db_password", problem)
    raise InvalidRequestError(f"db_password: {problem}", field="db_password")


def _columns(numbers: Sequence[int], rows: list[_Data]) -> ReadingColumns:
    freeform = SEPARATOR.join([row.freeform for row in rows])
    if not freeform.isascii() or b"\x7f" in freeform:
        freeform = _NOT_PRINTABLE.sub(_escape, freeform.decode()).encode()
    return ReadingColumns(
        _times(numbers, "relative_time", [row.relative_time for row in rows], parse_time),
        _times(
            numbers,
            "interrogator_time",
            [row.interrogator_time for row in rows],
            parse_time_or_date,
        ),
        freeform,
    )


def _times(
    numbers: Sequence[int],
    field: str,
    values: list[Time],
    parse: Callable[[Time], int],
) -> "array[int]":
    try:
        return array("q", values)  # type: ignore[arg-type] # refuses what is no 64-bit integer
    except (TypeError, OverflowError):
        column = array("q")
    for number, value in zip(numbers, values, strict=True):
        try:
            column.append(parse(value))
        except ValueError as error:
            refuse_row(number, field, str(error))
    return column


def _escape(match: re.Match[str]) -> str:
    """A character as JSON escapes it in ASCII, as the old server did."""
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
