"""Answers in parts: `limit`, `cursor` and `order` of a read."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from iot_models.errors import InvalidRequestError
from iot_models.reading import INT64_MAX
from iot_stores.history import PageRange
from iot_stores.interval_index import Position

from .cursor import Cursor, decode_cursor

_ORDERS = {"asc": False, "desc": True}


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of an answer is asked for: from the cursor on, in the direction that is its own.

    Without anything it is all of the answer, rising.
    """

    limit: int | None = None
    descending: bool = False
    cursor: Cursor | None = None

    def span(self) -> PageRange:
        """The part as stores know it. One reading more than the limit tells whether more follow."""
        few = None if self.limit is None else self.limit + 1
        if self.cursor is None:
            return PageRange(descending=self.descending, few=few)
        return PageRange(self.cursor.after, self.cursor.until, self.descending, few)

    def behind(self, last: Position, count: int) -> "Page":
        """Return the rest of this page after `count` readings, of which the last is at `last`."""
        limit = None if self.limit is None else self.limit - count
        if self.cursor is None:
            cursor = Cursor(last, self.descending)
        else:
            cursor = replace(self.cursor, after=last)
        return replace(self, limit=limit, cursor=cursor)


@dataclass(frozen=True, slots=True)
class Paging:
    """What a request says of it; a cursor can't be read before its question is known."""

    limit: int | None
    order: str | None
    cursor: str | None

    def page(self, context: bytes) -> Page:
        """The part that is asked for.

        Raises:
            InvalidRequestError: the cursor is another question's, or for another order.
        """
        if self.cursor is None:
            return Page(self.limit, _ORDERS[self.order or "asc"])
        cursor = decode_cursor(self.cursor, context)
        if self.order is not None and _ORDERS[self.order] != cursor.descending:
            raise InvalidRequestError("cursor: is for the other order", field="cursor")
        return Page(self.limit, cursor.descending, cursor)


def parse_paging(arguments: Mapping[str, str]) -> Paging:
    """`limit`, `order` and `cursor` of a request's query; others are ignored, as they always were.

    Raises:
        InvalidRequestError: one of them is no such thing.
    """
    limit, order = arguments.get("limit"), arguments.get("order")
    if order is not None and order not in _ORDERS:
        raise InvalidRequestError("order: must be asc or desc", field="order")
    return Paging(None if limit is None else _limit(limit), order, arguments.get("cursor"))


def _limit(text: str) -> int:
    limit = int(text) if re.fullmatch("[0-9]{1,19}", text) else 0
    if not 1 <= limit < INT64_MAX:
        raise InvalidRequestError("limit: must be a whole number from 1 on", field="limit")
    return limit
