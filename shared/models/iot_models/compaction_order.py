"""A compaction order: which of a vault's segments a writer is to merge, and the keys it takes."""

import struct
from dataclasses import dataclass, field

from .errors import FormatError

FORMAT = 1

_HEADER = struct.Struct("<B16s16s32sI")
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
class CompactionOrder:
    """Segments of one vault, and a fresh key for what becomes of them.

    Stored sealed only (`iot_cipher.sealed_order`).
    """

    vault_id: bytes
    """16 bytes."""
    salt: bytes
    """16 random bytes that the fresh key was derived with."""
    chunk_key: bytes = field(repr=False)
    """32 bytes."""
    sources: tuple[Source, ...]

    def encode(self) -> bytes:
        """The order as bytes, in format 1."""
        header = _HEADER.pack(FORMAT, self.vault_id, self.salt, self.chunk_key, len(self.sources))
        return header + b"".join(
            _SOURCE.pack(each.first_id, each.received_min, each.salt, each.chunk_key)
            for each in self.sources
        )


def decode_order(data: bytes) -> CompactionOrder:
    """The order that `CompactionOrder.encode` wrote.

    Raises:
        FormatError: the bytes are not an order of a format that is known here.
    """
    if len(data) < _HEADER.size or data[0] != FORMAT:
        raise FormatError("compaction order of an unknown format")
    _, vault_id, salt, chunk_key, count = _HEADER.unpack_from(data)
    if len(data) != _HEADER.size + count * _SOURCE.size:
        raise FormatError("compaction order is cut short")
    sources = (Source(*values) for values in _SOURCE.iter_unpack(data[_HEADER.size :]))
    return CompactionOrder(vault_id, salt, chunk_key, tuple(sources))
