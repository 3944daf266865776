"""The parameters of `/api/iot/series`."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from werkzeug.datastructures import MultiDict

from iot_models.errors import InvalidRequestError

from .time_range import TimeOf, TimeRange, parse_time_range

TIME, COUNT = "time", "count"
"""Names of columns that are not fields."""
MAX_FIELDS, MAX_GROUPS, MAX_CONDITIONS = 20, 4, 16
_MAX_NAME = 256
_STEP = re.compile(r"([1-9][0-9]{0,14})(ms|s|m|h|d|)")
_UNITS = {"": 1, "ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PARAMETERS = {"from", "to", "by", "fields", "where", "group", "step", "agg", "format"}
_PASSWORDS = {"password", "db_password", "x-iot-password", "passwd", "pwd"}


class Aggregate(StrEnum):
    """How the values of a field in a window become one value."""

    COUNT = "count"
    MEAN = "mean"
    STDEV = "stdev"
    MIN = "min"
    MAX = "max"
    FIRST = "first"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of the parameter `where`: a reading's `field` must have the value `value`."""

    field: str
    value: str


@dataclass(frozen=True, slots=True)
class SeriesQuery:
    """The request for a series of one row for each reading, or for each window of readings."""

    time_range: TimeRange
    fields: tuple[str, ...]
    groups: tuple[str, ...]
    conditions: tuple[Condition, ...]
    step: int | None
    """Length of a window in ms; None if the series has one row for each reading."""
    aggregate: Aggregate
    form: str | None
    """`json`, `ndjson` or `csv`, if the request names one."""

    @property
    def by_receipt(self) -> bool:
        """Whether the column `time` has the times of receipt, not the interrogator timestamps."""
        return self.time_range.by is TimeOf.RECEIVED

    @property
    def read_fields(self) -> tuple[str, ...]:
        """The fields to read: those to return, those to group by, and those of the conditions."""
        return *self.fields, *self.groups, *(condition.field for condition in self.conditions)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of a row, in order."""
        counts = (COUNT,) if self.step is not None and not self.fields else ()
        return TIME, *self.groups, *self.fields, *counts


def parse_series_query(arguments: "MultiDict[str, str]") -> SeriesQuery:
    """Parse the parameters of a URL.

    Raises:
        InvalidRequestError: a parameter is unknown or malformed, or can't be combined with another.
    """
    asked = MultiDict((name, text) for name in _PARAMETERS for text in arguments.getlist(name))
    _refuse_unknown(arguments)
    return _query(asked)


def _query(arguments: "MultiDict[str, str]") -> SeriesQuery:
    step = _step(arguments.get("step"))
    aggregate = arguments.get("agg")
    fields = _names("fields", arguments.getlist("fields"), MAX_FIELDS)
    groups = _names("group", arguments.getlist("group"), MAX_GROUPS)
    if aggregate is None:
        aggregate = Aggregate.MEAN if fields else Aggregate.COUNT
    elif step is None:
        raise _invalid("agg", "also send step, the length of a window, such as step=1m")
    if aggregate not in set(Aggregate):
        raise _invalid("agg", f"must be one of {', '.join(Aggregate)}")
    if not fields and aggregate != Aggregate.COUNT:
        raise _invalid("fields", f"must be given for agg={aggregate}, such as fields=rssi,phase")
    query = SeriesQuery(
        parse_time_range(arguments),
        fields,
        groups,
        tuple(map(_condition, _limited("where", arguments.getlist("where"), MAX_CONDITIONS))),
        step,
        Aggregate(aggregate),
        _form(arguments.get("format")),
    )
    for name in query.columns:
        if query.columns.count(name) > 1:
            problem = f"two columns would be named {name}: leave out a field or a group"
            raise _invalid("fields", problem)
    return query


def _refuse_unknown(arguments: Iterable[str]) -> None:
    for name in arguments:
        if name.lower() in _PASSWORDS:
            raise _invalid(
                name,
                "a URL must not hold a password, because servers log URLs: send the header "
                'X-Iot-Password, or POST {"data": {"db_password": "..."}}',
            )
        if name not in _PARAMETERS:
            raise _invalid(name, f"is unknown; the parameters are {', '.join(sorted(_PARAMETERS))}")


def _step(text: str | None) -> int | None:
    if text is None:
        return None
    match = _STEP.fullmatch(text)
    if match is None:
        raise _invalid("step", "must be a length such as 500ms, 30s, 1m, 2h or 1d")
    return int(match[1]) * _UNITS[match[2]]


def _names(parameter: str, texts: list[str], limit: int) -> tuple[str, ...]:
    names = [name for text in texts for name in text.split(",")]
    if not all(0 < len(name) <= _MAX_NAME for name in names):
        raise _invalid(parameter, f"a name is empty or has more than {_MAX_NAME} characters")
    return tuple(_limited(parameter, names, limit))


def _limited(parameter: str, texts: list[str], limit: int) -> list[str]:
    if len(texts) > limit:
        raise _invalid(parameter, f"has {len(texts)} values; the limit is {limit}")
    return texts


def _condition(text: str) -> Condition:
    field, colon, value = text.partition(":")
    if not field or not colon or len(field) > _MAX_NAME:
        raise _invalid("where", "must be a field and its value, such as where=antenna:1")
    return Condition(field, value)


def _form(text: str | None) -> str | None:
    if text not in {None, "json", "ndjson", "csv"}:
        raise _invalid("format", "must be json, ndjson or csv")
    return text


def _invalid(field: str, problem: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {problem}", field=field)
