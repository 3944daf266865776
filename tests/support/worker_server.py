"""The script that forks the workers of pytest-xdist: `python worker_server.py PATH...`.

It imports the modules of the tests in the paths. Then it forks a worker for each client that
connects to the socket at standard input (`worker_client.py`). A worker collects the tests as a new
interpreter does, and finds the modules imported.
"""

import ctypes
import gc
import os
import random
import selectors
import signal
import socket
import sys
from pathlib import Path
from types import ModuleType

import pytest

from iot_tools.local.launch import die_with

_FROM_EXECNET = "import sys;exec(eval(sys.stdin.readline()))"
"""What execnet runs in an interpreter."""
_TASKS = Path("/proc/self/task")
_BLAS = "OPENBLAS_NUM_THREADS"


class _OnlyImports:
    """A plugin of pytest that imports the modules and makes no tests of them."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self) -> list[pytest.Item]:
        return []


def import_tests(arguments: list[str]) -> None:
    """Import all modules of tests. A worker repeats an import that fails, and reports it."""
    pytest.main(["--collect-only", "-p", "no:xdist", *arguments], plugins=[_OnlyImports()])
    gc.disable()  # as `conftest.py`, which is not imported again
    threads = [task.joinpath("comm").read_text().strip() for task in _TASKS.iterdir()]
    if len(threads) > 1:
        sys.exit(
            f"threads {threads}: a fork would not copy them. A module of the tests imports a "
            "library that starts threads: import it in the test"
        )


def serve() -> None:
    """Fork a worker for each client. Return in the worker, with the files of its client.

    The connection of a client is closed when its worker has ended.
    """
    events = selectors.DefaultSelector()
    with socket.socket(fileno=os.dup(0)) as server:
        events.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in events.select():
                if key.fileobj is not server:
                    _end(events, key)
                elif files := _forked(events, server.accept()[0]):
                    events.close()
                    _become(files)
                    return


def _forked(events: selectors.BaseSelector, client: socket.socket) -> list[int]:
    """Fork a worker. Return its standard files in the worker, and nothing in this process."""
    _, files, _, _ = socket.recv_fds(client, 1, 3)
    pid = os.fork()
    if pid == 0:
        for key in list(events.get_map().values()):
            if key.data is not None:
                _, others = key.data
                others.close()
                os.close(key.fd)
        client.close()
        return files
    for file in files:
        os.close(file)
    events.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, client))
    return []


def _end(events: selectors.BaseSelector, key: selectors.SelectorKey) -> None:
    """Free the pid of a worker that has ended, and tell its client."""
    pid, client = key.data
    os.waitpid(pid, 0)
    events.unregister(key.fd)
    os.close(key.fd)
    client.close()


def _become(files: list[int]) -> None:
    """Give this worker its standard files and random numbers of its own."""
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    random.seed()


def main(arguments: list[str]) -> None:
    """Import the tests, and run what execnet sends in each worker."""
    die_with(os.getppid(), signal.SIGTERM, ctypes.CDLL(None, use_errno=True))
    del sys.path[0]  # the folder of this script
    os.environ[_BLAS] = "1"  # numpy starts threads otherwise
    import_tests(arguments)
    del os.environ[_BLAS]
    serve()
    sys.argv = ["-c"]
    sys.modules["__main__"] = ModuleType("__main__")
    exec(_FROM_EXECNET, vars(sys.modules["__main__"]))  # noqa: S102 - as `python -c`


if __name__ == "__main__":
    main(sys.argv[1:])
