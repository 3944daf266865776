"""The parser of PUT bodies: JSON of one or many `{"data": {...}}`, parsed into columns.

A body is accepted or refused as a whole. From the JSON decoder to the columns, no Python code runs
per reading, except for times that are not plain integers.
"""

import time
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Protocol, TypeVar

import msgspec

from iot_api.http.request import password_bytes, refuse_row
from iot_models.errors import InvalidRequestError, TooLargeError
from iot_models.json_dialect import Decoded, NotJsonError, StandIns, decode
from iot_models.reading import SEPARATOR, ReadingColumns
from iot_models.settings import Settings
from iot_models.times import parse_time, parse_time_or_date

from .ascii_json import escape_json
from .body_errors import refuse_content, refuse_json
from .put_rows import Data, Row, Time, Written, WrittenRow

_TIMES_PER_TURN = 4096
"""Times that are parsed one by one before other greenlets run."""

AnyRow = TypeVar("AnyRow")

_one = msgspec.json.Decoder(Row)
_many = msgspec.json.Decoder(list[Row])
_one_written = msgspec.json.Decoder(WrittenRow)
_many_written = msgspec.json.Decoder(list[WrittenRow])


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

    With `parse_received`, each row has its original time of receipt in `absolute_timestamp`.

    The caller has checked that the body has at most `max_body_bytes`. All `freeform` texts together
    may have twice as many bytes: a Japanese character of three bytes becomes a JSON escape of six.

    Raises:
        InvalidRequestError: the body is invalid; the error names the row (from 0) and the field.
        TooLargeError: there are more than `max_readings` readings or `max_passwords` passwords, or
            the `freeform` texts are too large.
    """
    decoded = _decode(body, lines=lines)
    rows, stand_ins = decoded.content, decoded.stand_ins
    if not rows:
        raise InvalidRequestError("the request holds no readings")
    if len(rows) > max_readings:
        raise TooLargeError(
            f"a request may have at most {max_readings} readings, this request has {len(rows)}",
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
        if not is_plain or used + len(texts) > limit:  # most texts need no copy
            texts = escape_json(texts, limit=limit, used=used)
        used += len(texts)
        columns = _columns(numbers, group, texts, as_written)
        if parse_received is not None:
            written = as_written.column("absolute_timestamp")
            columns.received = parse_received(numbers, [written[number] for number in numbers])
        batches.append(Batch(encoded, columns))
    return batches


_Group = tuple[str, tuple[Sequence[int], list[Data]]]


def _passwords(rows: list[Data], max_passwords: int) -> dict[str, None]:
    """Return the distinct passwords of a request, in the order of their first rows."""
    all_passwords = [row.db_password for row in rows]
    first = all_passwords[0]
    if all_passwords.count(first) == len(rows):  # takes half of the time of a dict
        return {first: None}
    passwords = dict.fromkeys(all_passwords)
    if len(passwords) > max_passwords:
        # Each password may cost a scrypt.
        raise TooLargeError(
            f"a request may have at most {max_passwords} passwords, "
            f"this request has {len(passwords)}",
            limit=max_passwords,
        )
    return passwords


def _restore_passwords(
    rows: list[Data], stand_ins: StandIns, as_written: "_AsWritten", max_passwords: int
) -> None:
    """Replace the stand-ins in each `db_password` by what the client sent.

    The decoder refuses some strings, for example half a surrogate pair. `json_dialect` replaces
    them by stand-ins before the body is decoded.
    """
    if not any(map(stand_ins.holds, _passwords(rows, max_passwords))):
        return
    written = list(map(bytes, as_written.column("db_password")))
    texts = list(dict.fromkeys(written))
    sent = dict(zip(texts, stand_ins.strings(texts), strict=True))
    for row, text in zip(rows, written, strict=True):
        row.db_password = sent[text]


def _by_password(rows: list[Data], max_passwords: int) -> Iterable[_Group]:
    """Group rows by password, each group with the numbers of its rows in the request."""
    if len(rows) == 1:
        return ((rows[0].db_password, (range(1), rows)),)
    passwords = _passwords(rows, max_passwords)
    if len(passwords) == 1:
        return [(password, (range(len(rows)), rows)) for password in passwords]
    groups: dict[str, tuple[list[int], list[Data]]] = {password: ([], []) for password in passwords}
    for number, row in enumerate(rows):
        numbers, group = groups[row.db_password]
        numbers.append(number)
        group.append(row)
    return groups.items()


def _decode(body: bytes, *, lines: bool) -> Decoded[list[Row]]:
    # Most bodies are ASCII, and valid for the strict decoder. `json_dialect` decodes all others: it
    # checks UTF-8, which msgspec does not check everywhere, and accepts the JSON of old clients.
    if body.isascii():
        try:
            return Decoded(_rows(body, lines=lines), body)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _decode_dialect(body, lines=lines)
    return _decode_dialect(body, lines=lines)


def _decode_dialect(body: bytes, *, lines: bool) -> Decoded[list[Row]]:
    try:
        return decode(partial(_rows, lines=lines), body)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"the request is not {error.encoding.upper()}") from None
    except RecursionError:
        raise InvalidRequestError("the request's JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        refuse_content(str(error))
    except NotJsonError as error:
        refuse_json(error, lines=lines)


def _rows(body: bytes, *, lines: bool) -> list[Row]:
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


class _AsWritten:
    """The fields of all rows as JSON text. A decoded float would lose digits beyond 2**53."""

    def __init__(self, body: bytes, *, lines: bool) -> None:
        """`body` is JSON that the decoder accepts; with `lines`, it is NDJSON."""
        self._body = body
        self._lines = lines
        self._rows: list[Written] | None = None

    def column(self, field: str) -> list[msgspec.Raw]:
        """Return a field of each row as JSON text. The first call decodes the body once more."""
        if self._rows is None:
            written = _decode_rows(self._body, _one_written, _many_written, lines=self._lines)
            self._rows = [row.data for row in written]
        return list(map(attrgetter(field), self._rows))


def _columns(
    numbers: Sequence[int], rows: list[Data], freeform: bytes, as_written: _AsWritten
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
