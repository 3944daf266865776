"""The parser of PUT bodies: JSON of one or many `{"data": {...}}`, parsed into columns.

A body is accepted or refused as a whole. Between the JSON decoder and the columns, no Python code
runs per reading, except for times that are not plain integers.
"""

import re
import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from operator import attrgetter
from typing import NoReturn, Protocol, TypeVar

import msgspec

from iot_api.http.json_dialect import Decoded, NotJsonError, StandIns, decode
from iot_api.http.request import Redacted, password_bytes, refuse_row
from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.reading import MISSING_TIME, SEPARATOR, ReadingColumns
from iot_models.settings import Settings
from iot_models.times import parse_time, parse_time_or_date

from .ascii_json import escape_json

Time = int | float | str

_PATH = re.compile(r" - at `\$(?:\[(\d+)\])?(\.data)?(?:\.(\w+))?`$")
_WRONG_KIND = {
    "data": "is not an object",
    "db_password": "is not a string",
    "relative_time": "is not a number",
    "interrogator_time": "is neither a number nor a date",
}
_TIMES_PER_TURN = 4096
"""Times that are parsed one by one before other greenlets run."""


class _Data(Redacted, gc=False):
    db_password: str = ""
    relative_time: Time = MISSING_TIME
    interrogator_time: Time = MISSING_TIME
    freeform: msgspec.Raw = msgspec.Raw(b'""')


class _Row(Redacted, gc=False):
    data: _Data


_seen = count()


class _CountedRow(_Row, gc=False):
    # msgspec calls `__post_init__` with each row, so `next(_seen, row)` counts the row. `next` only
    # takes the row as a default value: no Python code runs.
    __post_init__ = staticmethod(partial(next, _seen))  # type: ignore[misc] # takes the row, too


class _Written(Redacted, gc=False):
    db_password: msgspec.Raw = msgspec.Raw(b'""')
    relative_time: msgspec.Raw = msgspec.Raw(b"-1")
    interrogator_time: msgspec.Raw = msgspec.Raw(b"-1")
    absolute_timestamp: msgspec.Raw = msgspec.Raw(b"null")


class _WrittenRow(Redacted, gc=False):
    data: _Written


AnyRow = TypeVar("AnyRow")

_one = msgspec.json.Decoder(_Row)
_many = msgspec.json.Decoder(list[_Row])
_counted = msgspec.json.Decoder(list[_CountedRow])
_one_written = msgspec.json.Decoder(_WrittenRow)
_many_written = msgspec.json.Decoder(list[_WrittenRow])


@dataclass(slots=True)
class Batch:
    """Readings of one request under one password, in the order of the request."""

    password: bytes = field(repr=False)
    readings: ReadingColumns = field(repr=False)


class PutParser(Protocol):
    """`parse_put` with the limits of the settings."""

    def __call__(
        self, body: bytes, *, lines: bool = False, parse_received: "ParseReceived | None" = None
    ) -> list[Batch]:
        """Return the readings of a PUT."""


ParseReceived = Callable[[Sequence[int], Sequence[msgspec.Raw]], "array[int]"]
"""(row numbers, JSON texts of the rows' times of receipt) -> times of receipt in Unix ms."""


def put_parser(settings: Settings) -> PutParser:
    """Return `parse_put` with the limits of the settings."""
    return partial(
        parse_put,
        max_body_bytes=settings.max_body_bytes,
        max_readings=settings.max_readings,
        max_password_bytes=settings.max_password_bytes,
        max_passwords=settings.max_passwords,
    )


def parse_put(
    body: bytes,
    *,
    max_body_bytes: int,
    max_readings: int,
    max_password_bytes: int,
    max_passwords: int,
    lines: bool = False,
    parse_received: ParseReceived | None = None,
) -> list[Batch]:
    """Return the readings of a PUT, by password; with `lines` the body is NDJSON.

    With `parse_received`, each row brings its original time of receipt in `absolute_timestamp`.

    The caller has checked that the body has at most `max_body_bytes`. All `freeform` texts together
    may have twice as many bytes, because they are stored as ASCII: a Japanese character of three
    bytes becomes a JSON escape of six.

    Raises:
        InvalidRequestError: the body is invalid; the error names the row (from 0) and the field.
        TooLargeError: there are more than `max_readings` readings or `max_passwords` passwords, or
            the `freeform` texts are too large as ASCII.
    """
    decoded = _decode(body, lines=lines)
    rows, stand_ins = decoded.content, decoded.stand_ins
    if not rows:
        raise InvalidRequestError("the request holds no readings")
    if len(rows) > max_readings:
        raise TooLargeError(
            f"a request may hold {max_readings} readings, this one holds {len(rows)}",
            limit=max_readings,
        )
    batches = []
    limit, used = 2 * max_body_bytes, 0
    as_written = _AsWritten(decoded.strict, lines=lines)
    data = [row.data for row in rows]
    if stand_ins:
        _restore_passwords(data, stand_ins, as_written, max_passwords)
    for password, (numbers, group) in _by_password(data, max_passwords):
        encoded = password_bytes(password, max_password_bytes, row=numbers[0])
        texts = SEPARATOR.join([row.freeform for row in group])
        if stand_ins:
            texts = stand_ins.restore(texts)
        is_plain = texts.isascii() and b"\x7f" not in texts
        freeform = texts if is_plain else escape_json(texts, limit=limit, used=used)
        used += len(freeform)
        columns = _columns(numbers, group, freeform, as_written)
        if parse_received is not None:
            written = as_written.column("absolute_timestamp")
            columns.received = parse_received(numbers, [written[number] for number in numbers])
        batches.append(Batch(encoded, columns))
    return batches


_Group = tuple[str, tuple[Sequence[int], list[_Data]]]


def _passwords(rows: list[_Data], max_passwords: int) -> dict[str, None]:
    """Return the distinct passwords of a request, in the order of their first rows."""
    all_passwords = [row.db_password for row in rows]
    first = all_passwords[0]
    if all_passwords.count(first) == len(rows):  # takes half of the time of a dict
        return {first: None}
    passwords = dict.fromkeys(all_passwords)
    if len(passwords) > max_passwords:
        # Each password may cost a scrypt.
        raise TooLargeError(
            f"a request may bring {max_passwords} passwords, this one brings {len(passwords)}",
            limit=max_passwords,
        )
    return passwords


def _restore_passwords(
    rows: list[_Data], stand_ins: StandIns, as_written: "_AsWritten", max_passwords: int
) -> None:
    """Put the password as the client sent it into each `db_password` of `rows`.

    `json_dialect` has replaced the parts of the body that the decoder refuses, such as half a
    surrogate pair, by stand-ins. A decoded password may hold such stand-ins.
    """
    if not any(map(stand_ins.holds, _passwords(rows, max_passwords))):
        return
    written = list(map(bytes, as_written.column("db_password")))
    texts = list(dict.fromkeys(written))
    sent = dict(zip(texts, stand_ins.strings(texts), strict=True))
    for row, text in zip(rows, written, strict=True):
        row.db_password = sent[text]


def _by_password(rows: list[_Data], max_passwords: int) -> Iterable[_Group]:
    """Group rows by password, each group with the numbers of its rows in the request."""
    if len(rows) == 1:
        return ((rows[0].db_password, (range(1), rows)),)
    passwords = _passwords(rows, max_passwords)
    if len(passwords) == 1:
        return [(password, (range(len(rows)), rows)) for password in passwords]
    groups: dict[str, tuple[list[int], list[_Data]]] = {
        password: ([], []) for password in passwords
    }
    for number, row in enumerate(rows):
        numbers, group = groups[row.db_password]
        numbers.append(number)
        group.append(row)
    return groups.items()


def _decode(body: bytes, *, lines: bool) -> Decoded[list[_Row]]:
    # Most bodies are ASCII, and valid for the strict decoder. `json_dialect` decodes all others: it
    # checks UTF-8, which msgspec does not check everywhere, and accepts what old clients send.
    if body.isascii():
        try:
            return Decoded(_rows(body, lines=lines), body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _decode_dialect(body, lines=lines)
    return _decode_dialect(body, lines=lines)


def _decode_dialect(body: bytes, *, lines: bool) -> Decoded[list[_Row]]:
    try:
        return decode(partial(_rows, lines=lines), body)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the request is not {error.encoding.upper()}") from None
    except RecursionError:
        raise InvalidRequestError("the request's JSON is nested too deep") from None
    except msgspec.ValidationError as error:
        _refuse(str(error))
    except NotJsonError as error:
        problem = f"is not JSON: {error}"
        if lines:
            refuse_row(_bad_line(error.strict), "data", problem)
        if _holds_lines(error.strict):
            raise InvalidRequestError(
                "the request holds several JSON values, one a line: send it with "
                "`Content-Type: application/x-ndjson`, or send a list"
            ) from None
        row = _bad_row(error.strict)
        if row is not None:
            refuse_row(row, "data", problem)
        raise InvalidRequestError(f"the request {problem}") from None


def _rows(body: bytes, *, lines: bool) -> list[_Row]:
    return _decode_rows(body, _one, _many, lines=lines)


def _decode_rows(
    body: bytes,
    one: msgspec.json.Decoder[AnyRow],
    many: msgspec.json.Decoder[list[AnyRow]],
    *,
    lines: bool,
) -> list[AnyRow]:
    if not body or body.isspace():
        return []
    if lines:
        return one.decode_lines(body)
    if body.lstrip()[:1] == b"{":
        return [one.decode(body)]
    return many.decode(body)


def _bad_row(body: bytes) -> int | None:
    """Return the number of the invalid row of a list; None if the error is not in a row.

    The body is decoded once more, by a decoder that counts the rows before the error.
    """
    if body.lstrip()[:1] != b"[":
        return None
    before = next(_seen)
    try:
        _counted.decode(body)  # no other greenlet runs meanwhile and counts rows
    except (msgspec.DecodeError, ValueError) as error:
        if "trailing characters" not in str(error):
            return next(_seen) - before - 1
    return None


def _holds_lines(body: bytes) -> bool:
    """Return whether an invalid JSON body looks like NDJSON: the first line is a whole value, and
    another value begins behind the line.
    """
    body = body.lstrip()
    end = body.find(b"\n")
    if body[:1] not in b"{[" or end < 0 or body[end:].lstrip()[:1] not in {b"{", b"["}:
        return False
    try:
        msgspec.json.decode(memoryview(body)[:end], type=msgspec.Raw)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True


def _bad_line(body: bytes) -> int:
    """Return the number of the first invalid line of NDJSON, not counting empty lines.

    Uses bisection: in all, the decoder reads about as many bytes as the body has, and no Python
    code runs per line.
    """
    before = 0
    while True:
        last = len(body) - 1
        middle = body.find(b"\n", len(body) // 2, last) + 1 or body.rfind(b"\n", 0, last) + 1
        if not middle:
            return before
        try:
            before += len(_one.decode_lines(body[:middle]))
            body = body[middle:]
        except (msgspec.DecodeError, ValueError):
            body = body[:middle]


def _refuse(problem: str) -> NoReturn:
    """Raise an InvalidRequestError that tells the client, by row and field, what is wrong.

    `problem` is the decoder's message: `Expected ... - at `$[3].data.relative_time``.
    """
    if problem.startswith("Expected `array`"):
        raise InvalidRequestError("the request must be an object or a list of objects")
    found = _PATH.search(problem)
    row, within, field = found.groups() if found else (None, None, None)
    if problem.startswith("Object missing"):
        sentence = "is missing"
    elif problem.startswith(("Number out of range", "Integer value out of range")):
        sentence = "is beyond 64 bits"
    elif found and not within:
        sentence = "is missing, the row is not an object"
    else:
        sentence = _WRONG_KIND.get(field or "data", "is not understood")
    refuse_row(int(row or 0), field or "data", sentence)


class _AsWritten:
    """The fields of a request as JSON text: a decoded float loses digits beyond 2**53."""

    def __init__(self, body: bytes, *, lines: bool) -> None:
        """`body` is JSON that the decoder accepts; with `lines`, it is NDJSON."""
        self._body = body
        self._lines = lines
        self._rows: list[_Written] | None = None

    def column(self, field: str) -> list[msgspec.Raw]:
        """Return a field of each row as JSON text. The first call decodes the body once more."""
        if self._rows is None:
            written = _decode_rows(self._body, _one_written, _many_written, lines=self._lines)
            self._rows = [row.data for row in written]
        return list(map(attrgetter(field), self._rows))


def _columns(
    numbers: Sequence[int], rows: list[_Data], freeform: bytes, as_written: _AsWritten
) -> ReadingColumns:
    return ReadingColumns(
        _times(
            numbers, "relative_time", [row.relative_time for row in rows], parse_time, as_written
        ),
        _times(
            numbers,
            "interrogator_time",
            [row.interrogator_time for row in rows],
            parse_time_or_date,
            as_written,
        ),
        freeform,
    )


def _times(
    numbers: Sequence[int],
    field: str,
    values: list[Time],
    parse: Callable[[Time], int],
    as_written: _AsWritten,
) -> "array[int]":
    try:
        return array("q", values)  # type: ignore[arg-type] # refuses other values than 64-bit integers
    except (TypeError, OverflowError):
        column = array("q")
    if float in map(type, values):
        written = as_written.column(field)
        values = [
            bytes(written[number]).decode() if type(value) is float else value
            for number, value in zip(numbers, values, strict=True)
        ]
    for start in range(0, len(values), _TIMES_PER_TURN):
        time.sleep(0)
        try:
            column.extend(map(parse, values[start : start + _TIMES_PER_TURN]))
        except ValueError as error:  # all times before the invalid one are in the column
            refuse_row(numbers[len(column)], field, str(error))
    return column
