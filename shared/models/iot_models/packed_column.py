"""The packing of a column of 64-bit integers into a segment (`segment.PackedNumbers` unpacks it).

One subtraction of large integers computes all differences of a column, without a loop in Python.
"""

from typing import NamedTuple

from .segment import DELTA, RAW

_SIGN = bytes(7) + b"\x80"
_KEPT_MASKS = 10_000
"""The bit masks of a column depend only on its length. Masks of a length up to this one are kept
for later columns (160 KB). Few columns are longer."""


class PackedColumn(NamedTuple):
    """A column as `pack_column` packs it, and whether it is known to be sorted."""

    data: bytes
    is_sorted: bool
    """Whether the column is known to be sorted. False also if differences are beyond 64 bits."""


class _Masks(NamedTuple):
    """Two masks for a column of 64-bit integers: of all sign bits, and of all other bits.

    `numbers` is the number of integers in the column.
    """

    numbers: int
    signs: int
    others: int


def _masks(count: int) -> _Masks:
    signs = int.from_bytes(_SIGN * count, "little")
    return _Masks(count, signs, (1 << 64 * count) - 1 - signs)


_kept = _masks(0)


def _masks_of(count: int) -> _Masks:
    global _kept  # noqa: PLW0603 - replaced as a whole, so threads may share it
    kept = _kept
    if count > kept.numbers:
        kept = _masks(count)
        if count <= _KEPT_MASKS:
            _kept = kept
    # Shifting masks of more integers takes a tenth of the time of making masks.
    shift = 64 * (kept.numbers - count)
    return _Masks(count, kept.signs >> shift, kept.others >> shift)


def pack_column(data: bytes) -> PackedColumn:
    """Pack a column as differences, or as plain numbers if a difference is beyond 64 bits.

    `data` has 8 bytes per number, and at least one number.
    """
    count = len(data) // 8 - 1
    _, signs, others = _masks_of(count)
    column = int.from_bytes(data, "little")
    numbers = column >> 64
    # Sign bits are cleared first, so that no number borrows from the next one.
    unlike = (numbers ^ column) & signs
    differences = ((numbers | signs) - (column & others)) ^ (signs ^ unlike)
    if unlike & (numbers ^ differences):
        return PackedColumn(RAW + byte_planes(data), is_sorted=False)
    planes = byte_planes(data[:8] + differences.to_bytes(8 * count, "little"))
    return PackedColumn(DELTA + planes, not differences & signs)


def byte_planes(data: bytes) -> bytes:
    """Return all first bytes of 64-bit numbers, then all second bytes, and so on."""
    return b"".join([data[i::8] for i in range(8)])
