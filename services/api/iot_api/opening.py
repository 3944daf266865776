"""Opening segments: of each the readings that are asked for, in the order that is asked for."""

import logging
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from itertools import compress

from iot_cipher.sealed_segment import SealedSegment, decrypt_segment
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import Reading, absolute_timestamp
from iot_models.segment import SegmentColumns, decode_segment
from iot_stores.history import Question, Span

_log = logging.getLogger(__name__)


def opener(
    vault: OpenVault, question: Question, span: Span
) -> Callable[[SealedSegment], list[Reading]]:
    """Opens a vault's segments, one at a call; of each at most the first `span.few` in order.

    The function it gives raises DecryptionError or FormatError: the segment is damaged.
    """

    def open_segment(segment: SealedSegment) -> list[Reading]:
        time.sleep(0)  # others have their turn, however many are opened before there is an answer
        columns = _part(_columns(vault, segment), span)
        if not question.includes(segment.bounds):
            columns = _meeting(columns, question)
        return _readings(_first(columns, span))

    return open_segment


def _columns(vault: OpenVault, segment: SealedSegment) -> SegmentColumns:
    bounds = segment.bounds
    try:
        return decode_segment(bounds, decrypt_segment(vault, bounds, segment.payload))
    except (DecryptionError, FormatError):
        metrics.counter("iot_damaged_total").labels("segment").inc()
        _log.error("segment %s/%d can't be opened", segment.vault_id, bounds.first_id)
        raise


def _part(columns: SegmentColumns, span: Span) -> SegmentColumns:
    """What lies behind `span.after`, up to `span.until`."""
    if span.after is None:
        return columns
    low, high = (span.until, span.after) if span.descending else (span.after, span.until)
    find_low, find_high = (
        (bisect_left, bisect_left) if span.descending else (bisect_right, bisect_right)
    )
    places = range(len(columns.ids))

    def position(place: int) -> tuple[int, int]:
        return columns.interrogator[place], columns.ids[place]

    begin = 0 if low is None else find_low(places, low, key=position)
    end = len(places) if high is None else find_high(places, high, key=position)
    return _cut(columns, slice(begin, end))


def _meeting(columns: SegmentColumns, question: Question) -> SegmentColumns:
    meets = [
        question.relative_low <= relative <= question.relative_high
        and received >= question.received_low
        for relative, received in zip(columns.relative, columns.received, strict=True)
    ]
    return SegmentColumns(
        list(compress(columns.ids, meets)),
        list(compress(columns.received, meets)),
        list(compress(columns.relative, meets)),
        list(compress(columns.interrogator, meets)),
        list(compress(columns.freeform, meets)),
    )


def _first(columns: SegmentColumns, span: Span) -> SegmentColumns:
    count = len(columns.ids) if span.few is None else span.few
    if not span.descending:
        return columns if count >= len(columns.ids) else _cut(columns, slice(count))
    begin = max(0, len(columns.ids) - count)
    return _cut(columns, slice(len(columns.ids) - 1, begin - 1 if begin else None, -1))


def _cut(columns: SegmentColumns, part: slice) -> SegmentColumns:
    if part == slice(0, len(columns.ids)):
        return columns
    return SegmentColumns(
        columns.ids[part],
        columns.received[part],
        columns.relative[part],
        columns.interrogator[part],
        columns.freeform[part],
    )


def _readings(columns: SegmentColumns) -> list[Reading]:
    # A request's readings have one time of receipt: few texts serve many.
    stamps = {each: absolute_timestamp(each // 1000) for each in set(columns.received)}
    return list(
        map(
            Reading,
            map(stamps.__getitem__, columns.received),
            columns.freeform,
            columns.ids,
            columns.interrogator,
            columns.relative,
        )
    )
