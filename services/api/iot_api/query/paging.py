"""Pages of a read: `limit`, `cursor` and `order`."""

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
    """The part of an answer to return: up to `limit` readings behind the cursor, in one direction.

    The default is the complete answer, in ascending order.
    """

    limit: int | None = None
    descending: bool = False
    cursor: Cursor | None = None

    def page_range(self) -> PageRange:
        """Return the range to read from a store: one reading more than the limit, to know whether
        another page follows.
        """
        limit = None if self.limit is None else self.limit + 1
        if self.cursor is None:
            return PageRange(descending=self.descending, limit=limit)
        return PageRange(self.cursor.after, self.cursor.until, self.descending, limit)

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
    """The paging arguments of a request. A cursor is decoded once the vault is known."""

    limit: int | None
    order: str | None
    cursor: str | None

    def page(self, context: bytes) -> Page:
        """Return the requested page. `context` names the endpoint and the vault.

        Raises:
            InvalidRequestError: the cursor belongs to another context, or to the other order.
        """
        if self.cursor is None:
            return Page(self.limit, _ORDERS[self.order or "asc"])
        cursor = decode_cursor(self.cursor, context)
        if self.order is not None and _ORDERS[self.order] != cursor.descending:
            raise InvalidRequestError("cursor: belongs to the other order", field="cursor")
        return Page(self.limit, cursor.descending, cursor)


def parse_paging(arguments: Mapping[str, str]) -> Paging:
    """Parse `limit`, `order` and `cursor`. Other arguments are ignored, as the old server did.

    Raises:
        InvalidRequestError: an argument is malformed.
    """
    limit, order = arguments.get("limit"), arguments.get("order")
    if order is not None and order not in _ORDERS:
        raise InvalidRequestError("order: must be asc or desc", field="order")
    return Paging(None if limit is None else _limit(limit), order, arguments.get("cursor"))


def _limit(text: str) -> int:
    limit = int(text) if re.fullmatch("[0-9]{1,19}", text) else 0
    if not 1 <= limit < INT64_MAX:
        raise InvalidRequestError("limit: must be an integer of at least 1", field="limit")
    return limit
