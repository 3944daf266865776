"""A row of a file to import, checked and converted to the form in which it is sent."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TypeVar

import msgspec

from iot_models.password_form import normal_form
from iot_models.reading import MISSING_TIME, Reading, absolute_timestamp
from iot_models.times import parse_time, parse_time_or_date

_NUMBER = re.compile(r"\d{1,12}(\.\d*)?")
_DIGEST_BYTES = 16
_SECONDS = len("2026-11-23 06:17:23")
_Cell = TypeVar("_Cell")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ESCAPES = re.compile(
    r"((?:\\u(?!00[0-6]|007[^f]|d[89a-f])[0-9a-f]{4}|\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})+)"
    r"|\\."
)
"""Group 1: escapes of characters above 0x7e, in the form in which the service writes them. Escapes
in capitals are from the sender, and stay as they are. The other alternative skips escaped
backslashes, so that a `u00e9` after one is no escape."""
MAX_DIGITS = 4_300
"""Maximum number of digits of a text that is converted to an integer. CPython has the same limit by
default (`sys.set_int_max_str_digits`), because the time of the conversion grows with the square of
the number of digits."""
CSV_NAMES = {
    "absolute_timestamp": "received",
    "relative_timestamp": "relative", "relative_time": "relative", "relativetime": "relative",
    "interrogator_timestamp": "interrogator", "interrogator_time": "interrogator",
    "interrogatortime": "interrogator",
}  # fmt: skip
"""Maps each name of a time to the parameter of `make_row` for this time. These are the names of
columns of CSV and Parquet, and of members of JSON objects."""
_API_TIMES = {"relative_timestamp", "interrogator_timestamp"}
_NO_MEMBERS = {*CSV_NAMES, "freeform", "db_password", "id"}
"""Columns and members of a row that do not become members of `freeform`."""


class RowError(ValueError):
    """The row is not a reading; the message says why."""


class OtherPasswordError(RowError):
    """The row is encrypted under another password, or is damaged."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """A reading of a file."""

    received: str
    """Time of receipt: `YYYY-MM-DD HH:MM:SS`, UTC, with milliseconds if they are not zero."""
    relative: int
    interrogator: int
    freeform: str
    """JSON text in one line."""
    canonical: str
    """`freeform` in the form of `canonical_json`."""

    def body(self, password: str) -> bytes:
        """Return the reading as one line of the NDJSON body of a PUT.

        The body is in UTF-8, because escapes can take three times the bytes: a reading that the
        service once accepted could be too large. The service stores the escapes of `freeform`.
        """
        return msgspec.json.encode(
            {
                "data": {
                    "db_password": password,
                    "relative_time": self.relative,
                    "interrogator_time": self.interrogator,
                    "absolute_timestamp": self.received,
                    "freeform": msgspec.Raw(_ESCAPES.sub(_unescaped, self.freeform).encode()),
                }
            }
        )

    @property
    def received_second(self) -> str:
        """Time of receipt without milliseconds, as the service returns it."""
        return self.received[:_SECONDS]

    def digest(self) -> bytes:
        """Return the digest of the reading.

        For an equal reading that the service returned, `reading_digest` returns the same digest.
        """
        return _digest(self.received_second, self.relative, self.interrogator, self.canonical)


def reading_digest(reading: Reading) -> bytes:
    """Return the digest of a reading that the service returned, to compare it with
    `ImportRow.digest`. White space and escapes in `freeform` make no difference."""
    return _digest(
        reading.absolute_timestamp,
        reading.relative_timestamp,
        reading.interrogator_timestamp,
        canonical_json(reading.freeform),
    )


def canonical_json(freeform: str) -> str:
    """Return a canonical text of this JSON, to compare it with other JSON.

    White space, escapes and the form of a float make no difference: 1.10 and 1.1 have the same
    canonical text. An integer of more than `MAX_DIGITS` digits becomes an object with the digits.

    Raises:
        ValueError, RecursionError: the text is not JSON.
    """
    return json.dumps(json.loads(freeform, parse_int=_integer))


def short_integer(digits: str) -> int:
    """Convert digits to an integer. Raises `RowError` if there are more than `MAX_DIGITS`."""
    if len(digits) > MAX_DIGITS:
        raise RowError(f"an integer has more than {MAX_DIGITS} digits")
    return int(digits)


def _integer(digits: str) -> object:
    return int(digits) if len(digits) <= MAX_DIGITS else {"integer": digits}


def _one_line(freeform: str) -> str:
    """Return the same JSON in ASCII and in one line.

    In valid JSON, line ends occur only outside strings, so each can become a space. Non-ASCII
    characters occur only in strings, so each can become an escape.
    """
    escaped = _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], freeform)
    return escaped.replace("\n", " ").replace("\r", " ")


def _unescaped(found: re.Match[str]) -> str:
    return json.loads(f'"{found[0]}"') if found[1] else found[0]


def _digest(received: str, relative: int, interrogator: int, canonical: str) -> bytes:
    parts = f"{received}|{relative}|{interrogator}|{canonical}"
    return hashlib.blake2b(parts.encode(), digest_size=_DIGEST_BYTES).digest()


def make_row(received: object, relative: object, interrogator: object, freeform: str) -> ImportRow:
    """Return the row with these values. Raises `RowError` if one is invalid."""
    if received is None or received == "":
        raise RowError("absolute_timestamp is missing")
    received = f"{received:f}" if isinstance(received, Decimal) else str(received)
    try:
        canonical = canonical_json(freeform)
    except (ValueError, RecursionError):
        raise RowError("freeform is not JSON") from None
    return ImportRow(
        _received(received.strip()),
        _time("relative_timestamp", relative),
        _time("interrogator_timestamp", interrogator, parse_time_or_date),
        _one_line(freeform),
        canonical,
    )


def same_password(found: object, password: str) -> bool:
    """Return whether a value of a file is this password. As in the service, different Unicode
    forms of a password are equal."""
    return isinstance(found, str) and _normal(found) == _normal(password)


def _normal(password: str) -> bytes:
    return normal_form(password.encode(errors="surrogatepass"))


def meant_name(name: str) -> str | None:
    """Return the known name that `name` stands for, None for any other name.

    Known names are the names of times, `freeform`, `db_password` and `id`. Letter case does not
    matter, nor spaces or a byte order mark around `name`. But `ID` does not stand for `id`: many
    files have a column `ID` of their own.
    """
    plain = name.replace("\ufeff", "").strip()
    if plain.lower() != "id":
        plain = plain.lower()
    return plain if plain in _NO_MEMBERS else None


def row_of_json(data: Mapping[str, object], written: Mapping[str, str]) -> ImportRow:
    """Convert a JSON object: a reading as the API returns it, or as a PUT sends it.

    If the object has no `freeform`, `freeform` is made from the members other than id, password and
    times.

    `written` maps names of members to their JSON text, as the file has it. A text that is missing
    there is made from the decoded value, whose floats have only the precision of a double.
    Raises `RowError` if a value is invalid.
    """
    times: dict[str, object] = {}
    for name, value in data.items():
        if name in CSV_NAMES and value is not None:
            if CSV_NAMES[name] in times:
                raise RowError(f"has the same time twice; its second name is {name}")
            # The decoded float may lack digits. `_received` expects a number without exponent.
            exact = isinstance(value, float) and name != "absolute_timestamp"
            times[CSV_NAMES[name]] = written.get(name, value) if exact else value

    def text_of(name: str) -> str:
        return written[name] if name in written else json.dumps(data[name])

    freeform = data.get("freeform")
    if "freeform" not in data:
        members = {name: text_of(name) for name in data if name not in _NO_MEMBERS}
        for name in members:
            if meant := meant_name(name):
                raise RowError(f"has the member {name!r}: write {meant!r}, or rename the member")
        text = _object(members) if members else '""'
    elif isinstance(freeform, str) and not _API_TIMES.isdisjoint(data):
        text = freeform
    else:
        text = text_of("freeform")
    return make_row(times.get("received"), times.get("relative"), times.get("interrogator"), text)


def row_of_csv(fields: Mapping[str, str]) -> ImportRow:
    """Convert a row of a CSV file of the old program or of `iot-sensor export`.

    If the column `freeform` is missing or empty, `freeform` is made from the columns other than id
    and times. Cells with numbers or other JSON are copied into `freeform` unchanged. Raises
    `RowError` if a value is invalid.
    """
    return _row_of_columns({name: text for name, text in fields.items() if text}, _member)


def row_of_parquet(fields: Mapping[str, object]) -> ImportRow:
    """Convert a row of a Parquet file of `iot-sensor export`.

    If the column `freeform` is missing or null, `freeform` is made from the columns other than id
    and times, each value with the type of its column. Values are those of JSON, or a `Decimal`.
    Raises `RowError` if a value is invalid.
    """
    cells = {name: cell for name, cell in fields.items() if cell is not None}
    return _row_of_columns(cells, _json_of)


def _row_of_columns(fields: Mapping[str, _Cell], member: Callable[[_Cell], str]) -> ImportRow:
    """Return the row with these cells. `member` returns the JSON text of a cell."""
    own = {CSV_NAMES[name]: cell for name, cell in fields.items() if name in CSV_NAMES}
    freeform: object = fields.get("freeform")
    if freeform is None:
        freeform = _object(
            {name: member(cell) for name, cell in fields.items() if name not in _NO_MEMBERS}
        )
    if not isinstance(freeform, str):
        raise RowError("freeform is not text")
    return make_row(own.get("received"), own.get("relative"), own.get("interrogator"), freeform)


def _object(members: Mapping[str, str]) -> str:
    """Return a JSON object. `members` maps names to JSON texts."""
    return f"{{{', '.join(f'{json.dumps(name)}: {text}' for name, text in members.items())}}}"


def _json_of(cell: object) -> str:
    """Return the JSON text of a value of Parquet. A decimal number keeps its digits."""
    if isinstance(cell, Decimal):
        return str(cell)
    if isinstance(cell, dict):
        return _object({name: _json_of(value) for name, value in cell.items()})
    if isinstance(cell, list):
        return f"[{', '.join(map(_json_of, cell))}]"
    return json.dumps(cell)


def _member(text: str) -> str:
    """Return the JSON text of a member of `freeform` from its CSV cell.

    JSON stays as it is, `True` and `False` (as Python writes them) are booleans, and any other cell
    is a text.
    """
    if text in {"True", "False"}:
        return text.lower()
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return json.dumps(text)
    return text.strip()


@lru_cache(maxsize=4096)
def _received(text: str) -> str:
    """Convert a time of receipt to the form of `ImportRow.received`.

    `text` can have any of the forms that the databases of the old program use. Raises `RowError` if
    it has none of these forms.
    """
    try:
        if _NUMBER.fullmatch(text):  # TinyMongo: Unix seconds
            milliseconds = int(Decimal(f"{text}e3"))
        elif text[4:5] == text[7:8] == "-":
            milliseconds = parse_time_or_date(text) // 1000
        else:
            milliseconds = int(_http_date(text).timestamp()) * 1000
        seconds, fraction = divmod(milliseconds, 1000)
        return absolute_timestamp(seconds) + (f".{fraction:03}" if fraction else "")
    except (ValueError, OverflowError):
        raise RowError(
            f"absolute_timestamp is not a date such as 2026-11-23 06:17:23: {text[:40]!r}"
        ) from None


def _http_date(text: str) -> datetime:
    """Parse a date such as `Sat, 28 Nov 2026 07:00:00 GMT`; without a zone it is UTC."""
    date = parsedate_to_datetime(text)
    if date.tzinfo is not None:
        return date
    if any(map(str.isalpha, text.rsplit(maxsplit=1)[-1])):
        raise ValueError("unknown time zone")  # `parsedate_to_datetime` ignores it
    return date.replace(tzinfo=UTC)


def _time(name: str, value: object, parse: Callable[[int | float | str], int] = parse_time) -> int:
    if value is None or value == "":
        return MISSING_TIME
    if isinstance(value, Decimal):
        value = str(value)
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        raise RowError(f"{name} is not a number")
    try:
        return parse(value)
    except ValueError as error:
        raise RowError(f"{name} {error}") from None
