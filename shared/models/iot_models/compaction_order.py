"""A compaction order: which segments of a vault to merge, their keys, and keys for the result."""

import struct
from dataclasses import dataclass, field

from .errors import FormatError

FORMAT = 2
ONE_KEY_FORMAT = 1
"""The format of orders from older versions. All segments merged by such an order share one key."""

SMALL_READINGS = 512
"""Segments with fewer readings are small: they may be merged. The condition of the index
`segments_small` in Postgres contains the same number."""

_HEADER = struct.Struct("<B16sII")
_ONE_KEY_HEADER = struct.Struct("<B16s16s32sI")
_TARGET = struct.Struct("<16s32s")
_SOURCE = struct.Struct("<qq16s32s")


@dataclass(frozen=True, slots=True)
class Source:
    """A small segment to merge, and its chunk key. The key opens only this segment."""

    first_id: int
    received_min: int
    salt: bytes
    """16 bytes: the salt of the segment's chunk key. It identifies the segment: a merged segment
    may have the same `first_id` and `received_min` as one of its sources, but has another salt."""
    chunk_key: bytes = field(repr=False)
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class Target:
    """A new chunk key, for one merged segment."""

    salt: bytes
    """16 random bytes. The chunk key was derived with this salt."""
    chunk_key: bytes = field(repr=False)
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class CompactionOrder:
    """Small segments of one vault (`sources`), and new keys for the merged segments (`targets`).

    An order is stored only in sealed form (`iot_cipher.sealed_order`).
    """

    vault_id: bytes
    """16 bytes."""
    targets: tuple[Target, ...]
    """One target for each merged segment. If merged segments shared a key, a writer could open all
    of them once it has the key of one, for example to merge it again."""
    sources: tuple[Source, ...]
    one_key: bool = False
    """Whether the order has `ONE_KEY_FORMAT`: all merged segments share the key of one target."""

    def encode(self) -> bytes:
        """Return the order as bytes, in the newest format (`FORMAT`)."""
        header = _HEADER.pack(FORMAT, self.vault_id, len(self.targets), len(self.sources))
        targets = (_TARGET.pack(target.salt, target.chunk_key) for target in self.targets)
        sources = (
            _SOURCE.pack(source.first_id, source.received_min, source.salt, source.chunk_key)
            for source in self.sources
        )
        return b"".join((header, *targets, *sources))


def decode_order(data: bytes) -> CompactionOrder:
    """Return the order that `CompactionOrder.encode` wrote, in this version or an older one.

    Raises:
        FormatError: the bytes are not an order in a known format.
    """
    if len(data) >= _ONE_KEY_HEADER.size and data[0] == ONE_KEY_FORMAT:
        _, vault_id, salt, chunk_key, count = _ONE_KEY_HEADER.unpack_from(data)
        sources = _sources(data[_ONE_KEY_HEADER.size :], count)
        return CompactionOrder(vault_id, (Target(salt, chunk_key),), sources, one_key=True)
    if len(data) < _HEADER.size or data[0] != FORMAT:
        raise FormatError("the compaction order has an unknown format")
    _, vault_id, target_count, count = _HEADER.unpack_from(data)
    targets_end = _HEADER.size + target_count * _TARGET.size
    if len(data) < targets_end:
        raise FormatError("the compaction order is truncated")
    values = _TARGET.iter_unpack(data[_HEADER.size : targets_end])
    targets = tuple(Target(*fields) for fields in values)
    if len({target.salt for target in targets}) != len(targets):
        raise FormatError("the compaction order has the same key twice")
    return CompactionOrder(vault_id, targets, _sources(data[targets_end:], count))


def _sources(data: bytes, count: int) -> tuple[Source, ...]:
    if len(data) != count * _SOURCE.size:
        raise FormatError("the compaction order is truncated")
    return tuple(Source(*values) for values in _SOURCE.iter_unpack(data))
