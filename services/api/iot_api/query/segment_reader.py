"""Opening segments: of each the readings that are asked for, in the order that is asked for."""

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
"""A segment with more content than this is large: a process opens one at a time."""

_log = logging.getLogger(__name__)


def opener(
    vault: OpenVault,
    read_filter: ReadFilter,
    span: PageRange,
    order: Order,
    claim_large: Callable[[], None] = lambda: None,
) -> Callable[[SealedSegment], Rows]:
    """Opens a vault's segments, one at a call; of each at most the first `span.few` in order.

    `claim_large` is called before a large segment is fetched or unpacked; it may raise.

    The function it gives raises DecryptionError or FormatError: the segment is damaged.
    """
    behind = None if span.after is None else _next(order.place(span.after))
    beyond = None if span.until is None else _next(order.place(span.until))

    def open_segment(segment: SealedSegment) -> Rows:
        time.sleep(0)  # others have their turn, however many are opened before there is an answer
        columns = _columns(vault, segment, claim_large)
        rows = Rows(columns, order, 0, len(columns.ids))
        if behind is not None and order.begin(segment.bounds) < behind:
            rows = rows.since(behind)
        if beyond is not None and order.end(segment.bounds) >= beyond:
            rows = rows.before(beyond)
        if not read_filter.includes(segment.bounds):
            rows = rows.meeting(read_filter)
        return rows if span.few is None else rows.first(span.few)

    return open_segment


def _next(key: tuple[int, int]) -> tuple[int, int]:
    """The least key behind this one."""
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
