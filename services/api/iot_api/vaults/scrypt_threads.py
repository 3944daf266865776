"""scrypt beside the event loop, and behind everything else that wants the processor."""

import os
import sys
import threading

import gevent
import gevent.monkey
from gevent.threadpool import ThreadPool

from iot_cipher.vault import PasswordKey, password_key

NICE = 10
"""A tenth of the weight of the threads that serve requests: a flood of new passwords takes what
they leave. While the processor is idle, a scrypt is as fast as ever."""


def slow_key() -> PasswordKey:
    """`password_key`; with gevent it runs in a thread, so that other requests go on."""
    if not gevent.monkey.is_module_patched("socket"):
        return password_key
    pool = ThreadPool(1)

    def in_thread(password: bytes, salt: bytes, log2_n: int) -> bytes:
        key: bytes = pool.apply(_nice_password_key, (password, salt, log2_n))
        return key

    return in_thread


def _nice_password_key(password: bytes, salt: bytes, log2_n: int) -> bytes:
    if sys.platform == "linux":  # elsewhere a thread has no priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    return password_key(password, salt, log2_n)
