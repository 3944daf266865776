"""zstd, one context per thread: contexts are dear to make and must not be shared."""

import threading

import zstandard

from .errors import FormatError

ENTRY_LEVEL = 1
"""Entries live for a second: speed matters more than size. Level -1 would take half of the time,
but leave digits that don't repeat as long as they are."""
SEGMENT_LEVEL = 3
"""Segments live for years."""
MERGED_LEVEL = 9
"""Merged once, in the background: worth some more work."""

_MOST_WINDOW = 2**23
"""What the levels above use at most, twice over."""
_BEST_RATIO = 2**15
"""No zstd frame unpacks to more than this times its size: its densest block gives 128 KiB for 4."""


class _Contexts(threading.local):
    def __init__(self) -> None:
        self.compressors = {
            level: zstandard.ZstdCompressor(level=level)
            for level in (ENTRY_LEVEL, SEGMENT_LEVEL, MERGED_LEVEL)
        }
        self.decompressor = zstandard.ZstdDecompressor()
        self.small_window = zstandard.ZstdDecompressor(max_window_size=_MOST_WINDOW)


_contexts = _Contexts()


def compress(data: bytes, level: int) -> bytes:
    """One zstd frame that tells the size of its content."""
    return _contexts.compressors[level].compress(data)


def decompress(frame: bytes, limit: int) -> bytes:
    """The content of a frame made by `compress`.

    Raises:
        FormatError: it is no such frame, or its content is larger than `limit` bytes.
    """
    size = unpacked_size(frame)
    if size > limit:
        raise FormatError(f"compressed content is larger than {limit} bytes")
    if size > _BEST_RATIO * len(frame):  # before memory is set aside for it
        raise FormatError("compressed content is damaged")
    try:
        return _contexts.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def decompress_head(frame: bytes, size: int) -> bytes:
    """The first `size` bytes of the content of a frame, or fewer if it has no more; costs no more
    memory than one of our own frames needs, whatever its content's size.

    Raises:
        FormatError: it is no such frame.
    """
    try:
        with _contexts.small_window.stream_reader(frame) as reader:
            return reader.read(size)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None


def unpacked_size(frame: bytes) -> int:
    """How many bytes a frame made by `compress` says that its content has.

    Raises:
        FormatError: it is no such frame.
    """
    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError:
        raise FormatError("compressed content is damaged") from None
    if size < 0:
        raise FormatError("compressed content is damaged")
    return size
