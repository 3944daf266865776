"""Decrypt segments and select the requested readings in the requested order."""

import logging
import time
from collections.abc import Callable

from iot_cipher.sealed_segment import SealedSegment, decrypt_segment
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.compression import unpacked_size
from iot_models.errors import DecryptionError, FormatError
from iot_models.segment import SegmentColumns, decode_segment
from iot_stores.history import PageRange, ReadFilter, StoredSegment

from .read_order import Order
from .segment_rows import Rows

LARGE_BYTES = 8 * 2**20
"""A segment with more content than this is large: a process decrypts one at a time."""

_log = logging.getLogger(__name__)


def opener(
    vault: OpenVault,
    read_filter: ReadFilter,
    page_range: PageRange,
    order: Order,
    claim_large: Callable[[], None] = lambda: None,
) -> Callable[[SealedSegment], Rows]:
    """Return a function that opens one segment, and returns its first `page_range.limit` readings.

    `claim_large` is called before a large segment is fetched or decompressed; it may raise. The
    returned function raises DecryptionError or FormatError if the segment is damaged.
    """
    behind = None if page_range.after is None else _next(order.key_of(page_range.after))
    beyond = None if page_range.until is None else _next(order.key_of(page_range.until))

    def open_segment(segment: SealedSegment) -> Rows:
        time.sleep(
            0
        )  # let other greenlets run: a read may open many segments before its first batch
        columns = _columns(vault, segment, claim_large)
        rows = Rows(columns, order, 0, len(columns.ids))
        if behind is not None and order.begin(segment.bounds) < behind:
            rows = rows.since(behind)
        if beyond is not None and order.end(segment.bounds) >= beyond:
            rows = rows.before(beyond)
        if not read_filter.includes(segment.bounds):
            rows = rows.matching(read_filter)
        return rows if page_range.limit is None else rows.first(page_range.limit)

    return open_segment


def _next(key: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest key after this one."""
    return key[0], key[1] + 1


def _columns(
    vault: OpenVault, segment: SealedSegment, claim_large: Callable[[], None]
) -> SegmentColumns:
    bounds = segment.bounds
    try:
        content = _content(vault, segment, claim_large)
        if unpacked_size(content) > LARGE_BYTES:
            claim_large()
        return decode_segment(bounds, content)
    except (DecryptionError, FormatError):
        metrics.counter("iot_damaged_total").labels("segment").inc()
        _log.error("segment %s/%d can't be opened", segment.vault_id, bounds.first_id)
        raise


def _content(vault: OpenVault, segment: SealedSegment, claim_large: Callable[[], None]) -> bytes:
    payload: bytes | bytearray = segment.payload
    if isinstance(segment, StoredSegment):
        if (segment.size or 0) > LARGE_BYTES:
            claim_large()
        payload = segment.fetch()
    return decrypt_segment(vault, segment.bounds, payload)
