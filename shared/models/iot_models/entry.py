"""An entry: the readings of one request for one vault, on their way from the API to the writer."""

import struct
from dataclasses import dataclass, field

from .compression import ENTRY_LEVEL, compress, decompress
from .errors import FormatError
from .reading import SEPARATOR, ReadingColumns, int64s

FORMAT, FORMAT_WITH_RECEIVED = 1, 2
"""Format 2 also has a time of receipt for each reading."""
COMPRESS_FROM = 512
"""Smaller contents are not compressed: it would not pay."""
MAX_CONTENT_BYTES = 2**31

_HEADER = struct.Struct("<BB16s16s32sqI")
_PLAIN, _ZSTD = 0, 1


@dataclass(slots=True)
class Entry:
    """Readings, and the key to encrypt them with. Stored only sealed (`iot_cipher.envelope`)."""

    vault_id: bytes
    """16 bytes."""
    salt: bytes
    """16 random bytes that the chunk key was derived with."""
    chunk_key: bytes = field(repr=False)
    """32 bytes. The vault's data key can't be computed from the chunk key."""
    sealed_at: int
    """Unix milliseconds of the API's clock."""
    readings: ReadingColumns = field(repr=False)

    def encode(self) -> bytes:
        """Return the entry as bytes: in format 1, or in format 2 with imported times of receipt."""
        readings = self.readings
        if readings.received is None:
            form, received = FORMAT, b""
        else:
            form, received = FORMAT_WITH_RECEIVED, readings.received.tobytes()
        content = b"".join(
            (
                readings.relative.tobytes(), readings.interrogator.tobytes(),
                received, readings.freeform,
            )
        )  # fmt: skip
        packing = _PLAIN
        if len(content) >= COMPRESS_FROM:
            packing, content = _ZSTD, compress(content, ENTRY_LEVEL)
        count = len(readings.relative)
        header = _HEADER.pack(
            form, packing, self.vault_id, self.salt, self.chunk_key, self.sealed_at, count
        )
        return header + content


def decode_entry(data: bytes) -> Entry:
    """Return the entry that `Entry.encode` wrote.

    Raises:
        FormatError: the bytes are not an entry in a known format.
    """
    if len(data) < _HEADER.size or data[0] not in {FORMAT, FORMAT_WITH_RECEIVED}:
        raise FormatError("the entry has an unknown format")
    form, packing, vault_id, salt, chunk_key, sealed_at, count = _HEADER.unpack_from(data)
    content = data[_HEADER.size :]
    if packing == _ZSTD:
        content = decompress(content, MAX_CONTENT_BYTES)
    elif packing != _PLAIN:
        raise FormatError("the entry has an unknown compression")
    column = 8 * count
    texts = (2 if form == FORMAT else 3) * column
    if len(content) < texts:
        raise FormatError("the entry is truncated")
    readings = ReadingColumns(
        int64s(content[:column]),
        int64s(content[column : 2 * column]),
        content[texts:],
        None if form == FORMAT else int64s(content[2 * column : texts]),
    )
    # Checked before the readings get into a segment: here, a bad entry becomes a dead letter. In a
    # segment, it would make all readings of the segment unreadable.
    if not readings.freeform.isascii() or readings.freeform.count(SEPARATOR) != max(count - 1, 0):
        raise FormatError("the entry's columns differ in length, or are not ASCII")
    return Entry(vault_id, salt, chunk_key, sealed_at, readings)
