"""Ports of the loopback address."""

import random
import socket

# Below the range that systems take outgoing connections' ports from (Linux: 32768 and up), so
# that a server that is started again finds its port still free.
_FIRST, _LAST = 15_000, 32_000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port nobody listens on; another program may still take it first."""
    choice = random.SystemRandom()
    while True:
        port = choice.randint(_FIRST, _LAST)
        if is_free(port):
            return port
