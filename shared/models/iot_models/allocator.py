"""Settings of glibc's allocator: how much freed memory a process keeps."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 4 * 2**20
KEPT = 16 * 2**20


def hand_back_large_blocks() -> None:
    """Make glibc return blocks of 4 MiB and more to the kernel as soon as they are freed.

    The memory of smaller blocks is returned when more than 16 MiB are free at the end of the heap.
    With another libc, do nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        # glibc keeps freed blocks below the threshold. By default, the threshold rises to the size
        # of each freed block, up to 32 MiB (mallopt(3), M_MMAP_THRESHOLD). With a threshold of 8
        # MiB, compressed segments of 7.5 MiB fragmented the heap.
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        # Reads and drains use smaller blocks all the time. With new pages each time, the writer
        # would take twice as long to encode a segment of 10,000 readings.
        mallopt(_M_TRIM_THRESHOLD, KEPT)
