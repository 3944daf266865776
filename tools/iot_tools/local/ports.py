"""Free ports of the loopback address."""

import random
import socket

# Below the ports of outgoing connections (Linux: from 32768), so that the port of a server is still
# free when the server is started again.
_FIRST, _LAST = 15_000, 32_000


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether a server could listen on the port now."""
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
    """Return a free port. Another program may take it before its use."""
    choice = random.SystemRandom()
    while True:
        port = choice.randint(_FIRST, _LAST)
        if is_free(port):
            return port
