"""Readings of the service: page by page, one by one, or as a table."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from .errors import NoResponseError, answer_of
from .tables import arrow_table, pandas_frame

if TYPE_CHECKING:
    from .client import Client

PAGE_SIZE = 10_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXACT = Context(prec=28)
"""Replaces the default context, whose precision the program may have lowered."""
Row = dict[str, Any]


class Readings:
    """A query. Each iteration asks the service anew, and holds one page in memory.

    Every reading that is present when the first page is read comes exactly once, even if readings
    are stored meanwhile. Readings that arrive later may come too.
    """

    def __init__(self, client: "Client", path: str, query: Mapping[str, object]) -> None:
        self._client = client
        self._path = path
        self._query = query

    def pages(self) -> Iterator[list[Row]]:
        """Return an iterator over the pages.

        Raises the errors of `Client.read`, after as many pages as could be read.
        """
        cursor: str | None = None
        while True:
            query = self._query if cursor is None else {**self._query, "cursor": cursor}
            page, cursor, _ = read_page(self._client, f"{self._path}?{urlencode(query)}")
            yield page
            if cursor is None:
                return

    def __iter__(self) -> Iterator[Row]:
        for page in self.pages():
            yield from page

    def to_arrow(self, *, flatten: bool = False) -> Any:
        """Return a `pyarrow.Table`. It needs the extra `arrow`.

        `absolute_timestamp` is a UTC time; the other times are whole microseconds. `freeform` is
        the JSON text. With `flatten`, each member of `freeform` has its own column, such as
        `freeform.rssi`; a `freeform` that is not an object is in the column `freeform`. If the
        values of a column have different types, they are JSON texts.

        Raises:
            ImportError: pyarrow is not installed.
        """
        return arrow_table(self.pages(), flatten=flatten)

    def to_pandas(self, *, flatten: bool = False) -> Any:
        """Return a `pandas.DataFrame` with the columns of `to_arrow`. It needs the extra `pandas`.

        pandas chooses the types of the columns for members of `freeform`. Exception: a column is
        Int64 if it lacks some values and has an integer beyond 2**53. pandas would choose float64,
        which rounds this integer.

        Raises:
            ImportError: pandas is not installed.
        """
        return pandas_frame(self.pages(), flatten=flatten)


def read_page(client: "Client", path: str) -> tuple[list[Row], str | None, str | None]:
    """Return the readings of a page, the cursor of the next page, and the header `Date`.

    The cursor is None on the last page. `Date` is None if the response does not have it.
    """
    response = client.request("POST", path, json={"data": client.credentials})
    rows: list[Row] = answer_of(response, "data", list)
    cursor: str | None = response.json().get("cursor")
    return rows, cursor, response.headers.get("Date")


def read_unbroken_page(
    client: "Client", path: str, query: dict[str, str]
) -> tuple[list[Row], str | None, str | None]:
    """Read a page as `read_page` does, with fewer readings if the response breaks off.

    At damaged readings, the service breaks off a long response, but answers a request for a short
    page with the error `damaged`. So the page shrinks until the request succeeds or has this error.
    `query` keeps the `limit` that worked, for the next pages.
    """
    query.setdefault("limit", str(PAGE_SIZE))
    while True:
        try:
            return read_page(client, f"{path}?{urlencode(query)}")
        except NoResponseError as error:
            if query["limit"] == "1" or not isinstance(error.__cause__, IncompleteRead):
                raise
            query["limit"] = str(int(query["limit"]) // 10)


def read_path(*, last: int | None, seconds: int | None, start: int | None, end: int | None) -> str:
    given = {"last": last, "seconds": seconds, "start": start}
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) > 1 or (end is not None and start is None):
        raise ValueError("give only one of last, seconds and start; end needs start")
    path = "/api/iot"
    for name, value in named.items():
        path += f"/{value}" if name == "start" else f"/{name}/{value}"
    return path if end is None else f"{path}/{end}"


def time_range(since: datetime | None, until: datetime | None, by: str) -> dict[str, str]:
    """Return the query parameters for `since`, `until` and `by` of `Client.readings`.

    Raises:
        TypeError: a time is not a `datetime`.
        ValueError: a time has no time zone.
    """
    times = {"from": ("since", since), "to": ("until", until)}
    query = {
        name: _unix_ms(argument, time)
        for name, (argument, time) in times.items()
        if time is not None
    }
    return {"by": by, **query} if query else {}


def _unix_ms(argument: str, time: datetime) -> str:
    """Return Unix milliseconds as decimal text, exact to the microsecond: `1763877000123.456`.

    Raises the errors of `time_range`. `argument` is the name of the time in a message.
    """
    if not isinstance(time, datetime):
        raise TypeError(f"{argument} must be a datetime, not {type(time).__name__}")
    if time.tzinfo is None:
        raise ValueError(f"the time {time} has no time zone; for example, add tzinfo=UTC")
    microseconds = (time - _EPOCH) // timedelta(microseconds=1)
    return f"{_EXACT.divide(microseconds, 1000):f}"
