"""Run scrypt in a thread of low priority, outside of the event loop."""

import os
import sys
import threading

import gevent
import gevent.monkey
from gevent.threadpool import ThreadPool

from iot_cipher.vault import PasswordKey, password_key

NICE = 10
"""Added niceness of a scrypt thread. With 10 more than its process, it gets a tenth of the CPU
weight of the threads that serve requests. So a flood of new passwords leaves most of the CPU to
requests. On an idle CPU, scrypt is as fast as without niceness."""

_HIGHEST_NICENESS = 19


def slow_key() -> PasswordKey:
    """Return the function with which requests compute scrypt.

    Under gevent, it runs `password_key` in a thread, because a scrypt in the event loop would stop
    all other requests. Without gevent, it is `password_key` itself.
    """
    if not gevent.monkey.is_module_patched("socket"):
        return password_key
    pool = ThreadPool(1)
    # Never below the niceness of the process: that needs a right that the container lacks.
    niceness = min(os.getpriority(os.PRIO_PROCESS, 0) + NICE, _HIGHEST_NICENESS)

    def nice_password_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
        if sys.platform == "linux":  # other systems have no priorities of threads
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        return password_key(password, salt, log2_n)

    def in_thread(password: bytes, salt: bytes, log2_n: int) -> bytes:
        key: bytes = pool.apply(nice_password_key, (password, salt, log2_n))
        return key

    return in_thread
