"""Free ports of the loopback address."""

import os
import random
import socket
from collections import deque

# Below the ports of outgoing connections (Linux: from 32768), so that the port of a server is still
# free when the server is started again.
_FIRST, _LAST = 15_000, 32_000
_RESERVATIONS = 64
ANY_ADDRESS = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- compared with, not bound
"""Hosts of a listen address that stand for all addresses of the machine."""
_reservations: deque[int] = deque()
"""Descriptors of the sockets that reserve ports, the oldest one first."""


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
    """Return a free port, and reserve it.

    While the port is reserved, this function does not return it again, in any process. Other
    programs can still use the port. The reservation ends with this process, or when this process
    has reserved `_RESERVATIONS` more ports.
    """
    choice = random.SystemRandom()
    while True:
        port = choice.randint(_FIRST, _LAST)
        reservation = _reserve(port)
        if reservation is None:
            continue
        _reservations.append(reservation)
        while len(_reservations) > _RESERVATIONS:
            os.close(_reservations.popleft())
        if is_free(port):
            return port


def _reserve(port: int) -> int | None:
    """Reserve a port by a UDP socket that is bound to it. Return the descriptor of the socket.

    Return None if the port is reserved already. Without reservations, two servers could get the
    same port, and the clients of both would reach the server that listens first. The UDP socket
    does not keep a server from listening on the port by TCP. When the process ends, the kernel
    closes the socket and so ends the reservation.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as reservation:
        try:
            reservation.bind(("127.0.0.1", port))
        except OSError:
            return None
        return reservation.detach()
