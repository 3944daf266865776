"""Settings of glibc's allocator: how much freed memory a process keeps."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 8 * 2**20
KEPT = 16 * 2**20


def hand_back_large_blocks() -> None:
    """Make glibc return blocks of 8 MiB and more to the kernel as soon as they are freed.

    By default glibc raises its threshold when the first scrypt frees its 16 MiB (mallopt(3),
    M_MMAP_THRESHOLD), and then keeps such a block in each process. Of smaller blocks glibc keeps
    16 MiB, which reads and drains use all the time: when the writer encodes a segment of 10,000
    readings, new pages take as much time as the rest. Nothing is done with another libc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
