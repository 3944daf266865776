"""One data directory of Postgres for all servers of a test run.

initdb takes 0.7 s of CPU time, a copy of its result 0.1 s. The copies have the same password and
the same system identifier.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot_tools.local.lock import DirectoryLock
from iot_tools.local.postgres_server import PostgresServer

_MAKE_SECONDS = 120
"""Longest time until another process of the run has made the directory."""


def run_folder(factory: pytest.TempPathFactory) -> Path:
    """Return the folder for temporary files that all processes of pytest-xdist share."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


class _Original(PostgresServer):
    """The server whose data directory is copied. It is never started."""

    def make(self) -> None:
        """Make the data directory, unless a process of the run has made it."""
        if self.data.exists():
            return
        self.directory.mkdir(mode=0o700, exist_ok=True)
        lock = DirectoryLock(self.directory)
        lock.take(_MAKE_SECONDS)
        try:
            if not self.data.exists():
                self._initialize()
        finally:
            lock.release()


@contextmanager
def copied_data(folder: Path) -> Iterator[None]:
    """Let new servers copy the data directory in `folder` instead of running initdb.

    The first server makes this directory. A server of a subclass runs initdb, because it may have
    another version. So does a server that has a password, because its URL was read.
    """
    run_initdb = PostgresServer._run_initdb  # noqa: SLF001 - no public method runs only initdb
    original = _Original(folder, settings={"fsync": "off"})

    def fill(server: PostgresServer, made: Path) -> None:
        password = server.directory / "password"
        if type(server) is not PostgresServer or password.exists():
            run_initdb(server, made)
            return
        original.make()
        _copy(str(original.directory / "password"), password)
        _copy(f"{original.data}/.", made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PostgresServer, "_run_initdb", fill)
        yield


def _copy(source: str, target: Path) -> None:
    """Copy a file, or the content of `directory/.`, with owners and modes."""
    subprocess.run(["/bin/cp", "-a", source, str(target)], check=True)
