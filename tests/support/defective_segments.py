"""Segments that a defective or taken-over writer could store: they decrypt and are damaged."""

import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import zstandard

from iot_cipher.encryption import SALT_BYTES, OpenVault, SealedSegment, encrypt_segment
from iot_models.reading import INT64_MAX
from iot_models.segment import ARRIVAL, ID_STRIDE, MERGED_ALONE, SORTED, SegmentBounds

Defect = Callable[[SegmentBounds], tuple[SegmentBounds, bytes]]
"""A function from the bounds of a sound segment to the bounds and content of a defective one."""

LATE = 2**60
"""A time after the year 9999, in ms."""


def differences(first: int, *others: int) -> bytes:
    """Return a packed column: its first number, and the differences between the others."""
    plain = struct.pack(f"<{1 + len(others)}q", first, *others)
    return b"\1" + b"".join(plain[i::8] for i in range(8))


def content(
    bounds: SegmentBounds,
    *,
    form: int = ARRIVAL,
    count: int | None = None,
    runs: Sequence[tuple[int, int]] | None = None,
    head: bytes = b"",
    relative: bytes | None = None,
    times: bytes | None = None,
    texts: Sequence[bytes] | None = None,
) -> bytes:
    """Return the content of a segment whose times are 1 µs apart, except for the given parts."""
    each = [1] * (bounds.count - 1)
    if runs is None:
        runs = [] if form == MERGED_ALONE else [(bounds.received_min, bounds.count)]
    parts = [
        struct.pack("<BII", form, bounds.count if count is None else count, len(runs)),
        *(struct.pack("<qI", *run) for run in runs),
        head,
        relative if relative is not None else differences(bounds.relative_min, *each),
        times if times is not None else differences(bounds.interrogator_min, *each),
        b"\0".join(texts if texts is not None else [b"%d" % n for n in range(bounds.count)]),
    ]
    return zstandard.compress(b"".join(parts))


def _same(**parts: Callable[[SegmentBounds], Any]) -> Defect:
    """Return a defect that changes only the content."""
    return lambda bounds: (bounds, content(bounds, **{k: of(bounds) for k, of in parts.items()}))


def _bounds(change: Callable[[SegmentBounds], dict[str, int]]) -> Defect:
    """Return a defect that changes the bounds. The content agrees with the changed bounds."""

    def defect(bounds: SegmentBounds) -> tuple[SegmentBounds, bytes]:
        changed = replace(bounds, **change(bounds))
        return changed, content(changed)

    return defect


def _merged(
    ids: Callable[[SegmentBounds], bytes], steps: Sequence[int] = (1, 1), received: int = 0
) -> Defect:
    """Return a defect in the ids or times of a merged segment of three readings."""

    def defect(bounds: SegmentBounds) -> tuple[SegmentBounds, bytes]:
        head = ids(bounds) + differences(bounds.received_min, received, received)
        times = differences(bounds.interrogator_min, *steps)
        return bounds, content(bounds, form=MERGED_ALONE, head=head, times=times)

    return defect


def _ids(*steps: int, begin: int = 0) -> Callable[[SegmentBounds], bytes]:
    return lambda bounds: differences(bounds.first_id + begin, *steps)


def _late(bounds: SegmentBounds) -> tuple[SegmentBounds, bytes]:
    bounds = replace(bounds, received_max=LATE)
    return bounds, content(bounds, runs=[(bounds.received_min, 2), (LATE, 1)])


DEFECTS: dict[str, Defect] = {
    "not compressed": lambda bounds: (bounds, b"content"),
    "truncated": _same(texts=lambda _: [], times=lambda _: b"\1"),
    "an unknown form": _same(form=lambda _: 4),
    "an unknown form of a column": _same(times=lambda b: b"\2" + differences(b.count, 1, 1)[1:]),
    "another count": _same(count=lambda bounds: bounds.count - 1),
    "a text too few": _same(texts=lambda _: [b"1", b"2"]),
    "a text too many": _same(texts=lambda _: [b"1", b"2", b"3", b"4"]),
    "a text that is not ASCII": _same(texts=lambda _: [b"1", b'"\xc3\xa4"', b"3"]),
    "a run too short": _same(runs=lambda bounds: [(bounds.received_min, 2)]),
    "a run too long": _same(runs=lambda bounds: [(bounds.received_min, 4)]),
    "no readings": _bounds(lambda b: {"count": 0, "last_id": b.first_id - ID_STRIDE}),
    "a position beyond the readings": _same(
        form=lambda _: SORTED, head=lambda _: struct.pack("<3I", 0, 1, 3)
    ),
    "equal times, positions fall": _same(
        form=lambda _: SORTED,
        head=lambda _: struct.pack("<3I", 1, 0, 2),
        times=lambda bounds: differences(bounds.interrogator_min, 0, 1),
    ),
    "equal times, ids fall": _merged(_ids(-ID_STRIDE, 2 * ID_STRIDE, begin=ID_STRIDE), (0, 2)),
    "ids outside the bounds": _merged(_ids(ID_STRIDE, ID_STRIDE, begin=-ID_STRIDE)),
    "ids beyond 64 bits": _merged(_ids(INT64_MAX, INT64_MAX)),
    "negative ids": _bounds(lambda _: {"first_id": -256, "last_id": 256}),
    "ids from 2**53 on": _bounds(lambda _: {"first_id": 2**53, "last_id": 2**53 + 512}),
    "times that fall": _same(times=lambda bounds: differences(bounds.interrogator_min, 2, -1)),
    "times before the bounds": _same(
        times=lambda bounds: differences(bounds.interrogator_min - 100, 1, 1)
    ),
    "times after the bounds": _same(
        times=lambda bounds: differences(bounds.interrogator_min, 1, 100)
    ),
    "times beyond 64 bits": _same(
        times=lambda bounds: differences(bounds.interrogator_min, INT64_MAX, 1)
    ),
    "relative times beyond 64 bits": _same(
        relative=lambda bounds: differences(bounds.relative_min, INT64_MAX, 1)
    ),
    "times of receipt beyond 64 bits": _merged(_ids(ID_STRIDE, ID_STRIDE), received=INT64_MAX),
    "a receipt after the year 9999": _late,
}


def seal(vault: OpenVault, bounds: SegmentBounds, data: bytes) -> SealedSegment:
    """Encrypt a segment with any content."""
    salt = os.urandom(SALT_BYTES)
    payload = encrypt_segment(vault.vault_id, salt, vault.chunk_key(salt), bounds, data)
    return SealedSegment(vault.vault_id, bounds, payload)
