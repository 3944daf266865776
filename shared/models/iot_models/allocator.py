"""Settings of glibc's allocator: how much freed memory a process keeps."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 8 * 2**20
KEPT = 16 * 2**20


def hand_back_large_blocks() -> None:
    """Make glibc return blocks of 8 MiB and more to the kernel as soon as they are freed.

    By default glibc returns only blocks above a threshold at once, and raises the threshold to the
    size of a freed block, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). Each process would then keep
    blocks of that size.

    Of the memory of smaller blocks, glibc keeps 16 MiB, because reads and drains use it all the
    time: with new pages each time, the writer would take twice as long to encode a segment of
    10,000 readings. With another libc, this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
