"""Readings as a table of pyarrow or pandas."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

_TIMES = ("relative_timestamp", "interrogator_timestamp")
_FREEFORM = "freeform"
_MAX_DIGITS = 1_000
"""Maximum number of digits of an integer; a longer one becomes a string. This is below the limit of
CPython, which is 4,300 digits by default (`sys.set_int_max_str_digits`)."""
_MAX_FLOAT_INTEGER = 2**53
"""Up to this integer, a float64 represents every integer exactly."""
Pages = Iterable[Sequence[Mapping[str, Any]]]
Columns = dict[str, list[Any]]


def arrow_table(pages: Pages, *, flatten: bool) -> Any:
    """Return the readings of all pages as the table that `Readings.to_arrow` describes."""
    with _explained("arrow"):
        arrow: Any = import_module("pyarrow")
    columns = _columns(pages, flatten=flatten)
    types = {"id": arrow.int64(), "absolute_timestamp": arrow.timestamp("s", tz="UTC")}
    types |= dict.fromkeys(_TIMES, arrow.int64())
    arrays = {}
    for name, values in columns.items():
        known = types.get(name) or (arrow.string() if _is_text(values) else None)
        try:
            arrays[name] = arrow.array(values, type=known)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError, OverflowError):
            arrays[name] = arrow.array(_as_texts(values), type=arrow.string())
    return arrow.table(arrays)


def pandas_frame(pages: Pages, *, flatten: bool) -> Any:
    """Return the readings of all pages as the frame that `Readings.to_pandas` describes."""
    with _explained("pandas"):
        pandas: Any = import_module("pandas")
    columns = _columns(pages, flatten=flatten)
    received = columns.pop("absolute_timestamp")
    frame = pandas.DataFrame(
        {
            name: pandas.Series(values, dtype=_pandas_type(name, values))
            for name, values in columns.items()
        }
    )
    times = pandas.to_datetime(pandas.Series(received, dtype="object"), utc=True)
    frame.insert(1, "absolute_timestamp", times)
    return frame


def _pandas_type(name: str, values: Sequence[Any]) -> str | None:
    """Return the type of a column; None lets pandas choose.

    `Readings.to_pandas` says which columns are Int64. Their missing values are `pandas.NA`. If an
    integer does not fit into 64 bits, the type is object.
    """
    if name == "id" or name in _TIMES:
        return "int64"
    if None not in values or any(type(value) not in {int, type(None)} for value in values):
        return None
    integers = [value for value in values if value is not None]
    is_rounded = any(abs(value) > _MAX_FLOAT_INTEGER for value in integers)
    fits = all(-(2**63) <= value < 2**63 for value in integers)
    return ("Int64" if fits else "object") if is_rounded else None


def _columns(pages: Pages, *, flatten: bool) -> Columns:
    columns: Columns = {"id": [], "absolute_timestamp": []} | {name: [] for name in _TIMES}
    if not flatten:
        columns[_FREEFORM] = []
    count = 0
    for page in pages:
        for row in page:
            columns["id"].append(row["id"])
            columns["absolute_timestamp"].append(_time(row["absolute_timestamp"]))
            for name in _TIMES:
                columns[name].append(row[name])
            members = _members(row[_FREEFORM]) if flatten else {_FREEFORM: row[_FREEFORM]}
            for name, value in members.items():
                column = columns.setdefault(name, [])
                column += [None] * (count - len(column))
                column.append(value)
            count += 1
    for column in columns.values():
        column.extend([None] * (count - len(column)))
    return columns


def _members(freeform: str) -> dict[str, Any]:
    """Return the values of the columns for a reading's `freeform`, which is JSON text.

    If `freeform` is an object, each member is the value of a column such as `freeform.rssi`. If
    not, `freeform` is the value of the column `freeform`. An integer with more than
    `_MAX_DIGITS` digits becomes a string.
    """
    value = json.loads(freeform, parse_int=_integer)
    if "\\u" in freeform:
        value = _unicode(value)
    if isinstance(value, dict):
        return {f"{_FREEFORM}.{name}": member for name, member in value.items()}
    return {_FREEFORM: value}


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= _MAX_DIGITS else digits


def _unicode(value: Any) -> Any:
    """Replace each lone surrogate with its escape, because UTF-8 can't encode surrogates."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, list):
        return list(map(_unicode, value))
    if isinstance(value, dict):
        return {_unicode(name): _unicode(each) for name, each in value.items()}
    return value


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _is_text(values: Sequence[Any]) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


def _as_texts(values: Sequence[Any]) -> list[str | None]:
    return [None if value is None else json.dumps(value) for value in values]


@contextmanager
def _explained(extra: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        message = f"{error}: pip install 'iot-sensor-client[{extra}]'"
        raise ImportError(message) from error
