"""A compaction order: which of a vault's segments a writer is to merge, and the keys it takes."""

import struct
from dataclasses import dataclass, field

from .errors import FormatError

FORMAT = 2
ONE_KEY_FORMAT = 1
"""An older process made the order: one key serves all merged segments."""

_HEADER = struct.Struct("<B16sII")
_ONE_KEY_HEADER = struct.Struct("<B16s16s32sI")
_TARGET = struct.Struct("<16s32s")
_SOURCE = struct.Struct("<qq16s32s")


@dataclass(frozen=True, slots=True)
class Source:
    """A segment to be merged, and the key that opens it and nothing else."""

    first_id: int
    received_min: int
    salt: bytes
    """16 bytes; another segment that begins with the same id has another salt."""
    chunk_key: bytes = field(repr=False)
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class Target:
    """A fresh key for one merged segment."""

    salt: bytes
    """16 random bytes that the key was derived with."""
    chunk_key: bytes = field(repr=False)
    """32 bytes."""


@dataclass(frozen=True, slots=True)
class CompactionOrder:
    """Segments of one vault, and fresh keys for what becomes of them.

    Stored sealed only (`iot_cipher.sealed_order`).
    """

    vault_id: bytes
    """16 bytes."""
    targets: tuple[Target, ...]
    """One for each merged segment. Two segments never share a key: when a small one is merged
    again, its key is given to a writer, and would open a large one, too."""
    sources: tuple[Source, ...]
    one_key: bool = False
    """An older process made the order: its only target serves all merged segments."""

    def encode(self) -> bytes:
        """The order as bytes, in format 2."""
        header = _HEADER.pack(FORMAT, self.vault_id, len(self.targets), len(self.sources))
        targets = (_TARGET.pack(each.salt, each.chunk_key) for each in self.targets)
        sources = (
            _SOURCE.pack(each.first_id, each.received_min, each.salt, each.chunk_key)
            for each in self.sources
        )
        return b"".join((header, *targets, *sources))


def decode_order(data: bytes) -> CompactionOrder:
    """The order that `CompactionOrder.encode` wrote, in this version or an older one.

    Raises:
        FormatError: the bytes are not an order of a format that is known here.
    """
    if len(data) >= _ONE_KEY_HEADER.size and data[0] == ONE_KEY_FORMAT:
        _, vault_id, salt, chunk_key, count = _ONE_KEY_HEADER.unpack_from(data)
        sources = _sources(data[_ONE_KEY_HEADER.size :], count)
        return CompactionOrder(vault_id, (Target(salt, chunk_key),), sources, one_key=True)
    if len(data) < _HEADER.size or data[0] != FORMAT:
        raise FormatError("compaction order of an unknown format")
    _, vault_id, target_count, count = _HEADER.unpack_from(data)
    targets_end = _HEADER.size + target_count * _TARGET.size
    if len(data) < targets_end:
        raise FormatError("compaction order is cut short")
    values = _TARGET.iter_unpack(data[_HEADER.size : targets_end])
    targets = tuple(Target(*each) for each in values)
    if len({each.salt for each in targets}) != len(targets):
        raise FormatError("compaction order names a key twice")
    return CompactionOrder(vault_id, targets, _sources(data[targets_end:], count))


def _sources(data: bytes, count: int) -> tuple[Source, ...]:
    if len(data) != count * _SOURCE.size:
        raise FormatError("compaction order is cut short")
    return tuple(Source(*values) for values in _SOURCE.iter_unpack(data))
