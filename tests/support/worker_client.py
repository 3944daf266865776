"""The script that pytest-xdist starts for each worker: `python -I -S worker_client.py SOCKET ...`.

It passes its standard files to the process that forks the worker (`worker_server.py`), and runs as
long as the worker.
"""

import contextlib
import os
import signal
import socket
import sys


def main(address: str) -> None:
    """Have a worker forked, and wait for its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        socket.send_fds(server, [b"\0"], [0, 1, 2])
        # pytest-xdist notices the end of a worker by the end of its files.
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1):
            os.dup2(nothing, standard)
        with contextlib.suppress(ConnectionError):
            server.recv(1)


if __name__ == "__main__":
    main(sys.argv[1])
