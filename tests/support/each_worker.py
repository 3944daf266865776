"""One connection to each API worker.

A test that must reach all workers can't rely on a number of requests: the kernel chooses the worker
of each new connection, and may choose the same one many times.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .waiting import wait_until


@contextmanager
def connections_to_each(
    port: int, workers: Callable[[], set[int]]
) -> Iterator[list[socket.socket]]:
    """Keep one connection open to each of the processes `workers()` that accept at `port`."""
    with ExitStack() as opened:
        found: dict[int, socket.socket] = {}

        def all_reached() -> bool:
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port), 30))
            worker = wait_until(
                lambda: _accepted_by(connection, workers()), what="a worker that accepts"
            )
            assert worker is not None
            found.setdefault(worker, connection)
            return workers() <= set(found)

        wait_until(all_reached, what="a connection to each worker")
        yield [connection for worker, connection in found.items() if worker in workers()]


def _accepted_by(connection: socket.socket, pids: set[int]) -> int | None:
    """Return which of the processes accepted a connection, None if none of them has yet."""
    inode = _inode_of_peer(connection)
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").glob("*"):
            with suppress(OSError):  # closed since it was listed
                if handle.readlink() == Path(f"socket:[{inode}]"):
                    return pid
    return None


def _inode_of_peer(connection: socket.socket) -> str | None:
    """Return the inode of the socket at the other end of an IPv4 connection of this machine."""
    here, there = connection.getsockname()[1], connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, *_, inode = line.split()[:10]
        if (_port(local), _port(remote)) == (there, here):
            return inode
    return None


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)
