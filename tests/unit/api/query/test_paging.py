"""Cursors: what they hold, and which ones are refused."""

import pytest

from iot_api.query.paging import decode_cursor, encode_cursor
from iot_api.query.pausable_read import Cursor
from iot_models.errors import InvalidRequestError
from iot_models.reading import INT64_MAX, INT64_MIN
from iot_stores.months import END_MS


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor((INT64_MIN, -1)),
        Cursor((INT64_MAX, 2**53), descending=True, until=(INT64_MIN, 0)),
        Cursor((0, 1), received_low=END_MS - 1),
    ],
)
def test_a_cursor_is_decoded(cursor: Cursor) -> None:
    assert decode_cursor(encode_cursor(cursor, b"read"), b"read") == cursor


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor((0, -2)),
        Cursor((INT64_MAX, 2**53 + 1)),
        Cursor((0, 1), until=(0, INT64_MAX)),
        Cursor((0, 1), received_low=-1),
        Cursor((0, 1), received_low=END_MS),
    ],
)
def test_a_cursor_with_an_impossible_number_is_refused(cursor: Cursor) -> None:
    with pytest.raises(InvalidRequestError, match="cursor: must be from an answer"):
        decode_cursor(encode_cursor(cursor, b"read"), b"read")
