"""What a worker keeps of the memory that it freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
LARGE = 8 * 2**20
KEPT = 16 * 2**20


def hand_back_large_blocks() -> None:
    """Have glibc give blocks of 8 MiB and more back as they are freed.

    Left alone, it takes the first scrypt, of 16 MiB, as a sign that such blocks come often, and
    keeps one for good in each process. Of smaller ones it keeps 16 MiB: reads go through them all
    the time. Another libc than glibc is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE)
        mallopt(_M_TRIM_THRESHOLD, KEPT)
