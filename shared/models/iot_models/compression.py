"""Compression with zstd.

Each thread has its own contexts: they are slow to create, and threads must not share them.
"""

import threading

import zstandard

from .errors import FormatError

ENTRY_LEVEL = 1
"""Entries live for about a second, so speed matters more than size. Level -1 takes half of the
time, but does not compress digits that don't repeat."""
SEGMENT_LEVEL = 3
"""Segments of a drain live until compaction merges them, or for years."""
MERGED_LEVEL = 9
"""Merged segments are compressed once, in the background, and live for years."""

_MAX_WINDOW = 2**23
"""Twice the largest window that the levels above use."""
_MAX_RATIO = 2**15
"""Maximum compression ratio of a zstd frame: the densest block has 4 bytes for 128 KiB."""


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.compressors = {
            level: zstandard.ZstdCompressor(level=level)
            for level in (ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL)
        }
        self.decompressor = zstandard.ZstdDecompressor()
        self.small_window = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)


_contexts = _Contexts()


def compress(data: bytes, level: int) -> bytes:
    """Return one zstd frame, which contains the size of its content."""
    return _contexts.compressors[level].compress(data)


def decompress(frame: bytes, limit: int) -> bytes:
    """Return the content of a frame from `compress`.

    Raises:
        FormatError: the bytes are not such a frame, or the content is larger than `limit` bytes.
    """
    size = unpacked_size(frame)
    if size > limit:
        raise FormatError(f"compressed content is larger than {limit} bytes")
    # The size is a claim of the frame. Check it before memory for the content is allocated.
    if size > _MAX_RATIO * len(frame):
        raise FormatError("compressed content is damaged")
    try:
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def decompress_head(frame: bytes, size: int) -> bytes:
    """Return the first `size` bytes of the content of a frame, or all if the content is shorter.

    A crafted frame can't use more memory than a frame from `compress`.

    Raises:
        FormatError: the bytes are not such a frame.
    """
    try:
        with _contexts.small_window.stream_reader(frame) as reader:
            return reader.read(size)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def unpacked_size(frame: bytes) -> int:
    """Return the size of the content of a frame from `compress`, as the frame claims it.

    Raises:
        FormatError: the bytes are not such a frame.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
    if size < 0:
        raise FormatError("compressed content is damaged")
    return size
