"""A side of a comparison: takes readings over HTTP, tells when they are stored."""

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from bench.limits import wait_until
from bench.load import Wire
from iot_sensor_client import Client, Response
from iot_tools.local.child import Child, LaunchError, Program

START_SECONDS = 30
REQUEST_SECONDS = 120
ROOT = Path(__file__).parents[2]


class Side(ABC):
    """One service that is loaded."""

    name: ClassVar[str]
    durability: str
    """What its answer to a request, and `stored`, promise."""
    settings: str
    """Those that matter."""
    wire: Wire
    port: int
    stores_later: ClassVar[bool] = False
    """Whether it acknowledges before it has stored, and `stored` tells when it has."""

    @abstractmethod
    def stored(self) -> int:
        """Readings it has stored for good, ever; the same number again while none come in."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until it has nothing left to do of what it acknowledged."""


class Peer(Side):
    """A side that is one process of its own."""

    package: ClassVar[str] = ""
    """The Debian package that brings its program; empty for what is part of this bench."""
    program: ClassVar[str] = ""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        folder.mkdir(parents=True)
        self._child: Child | None = None

    @classmethod
    def installed(cls) -> bool:
        """Whether its program is here."""
        return not cls.program or shutil.which(cls.program) is not None

    @abstractmethod
    def command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers."""

    def version(self) -> str:
        """Of its program, as Debian has it."""
        if shutil.which("dpkg-query") is None:
            return "not from a Debian package"
        command = ["dpkg-query", "--show", self.package]
        told = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return " ".join(told.stdout.split()) or "not from a Debian package"

    def environment(self) -> dict[str, str] | None:
        """The process's, or None for ours."""
        return None

    def prepare(self) -> None:
        """What there is to do once it answers."""

    def settle(self) -> None:
        """It acknowledges what it has done."""

    def start(self) -> None:
        """Start it and wait until it answers.

        Raises:
            LaunchError, TimeoutError: it doesn't.
        """
        program = Program(
            name=self.name,
            arguments=self.command(),
            environment=self.environment(),
            directory=ROOT,
            log=self.folder / "log",
            stop_seconds=30,
        )
        self._child = Child(program)
        self._child.spawn()
        wait_until(self._is_up, START_SECONDS, f"{self.name} answers")
        self.prepare()

    def stop(self) -> None:
        """End its process."""
        if self._child is not None:
            self._child.stop()

    def disk_bytes(self) -> int:
        """What its folder holds."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "log"]
        return sum(path.stat().st_size for path in files)

    def _is_up(self) -> bool:
        if self._child is None or not self._child.running:
            tail = "" if self._child is None else self._child.log_tail()
            raise LaunchError(f"{self.name} ended:\n{tail}")
        return answers(self.ready)


def request(port: int, method: str, path: str) -> Response:
    """Send one request. Raise `RuntimeError` unless it succeeds."""
    url = f"http://127.0.0.1:{port}"
    client = Client(url, timeout=REQUEST_SECONDS, keep_alive=False)
    response = client.request(method, path, repeatable=False)
    if not response.ok:
        raise RuntimeError(f"{method} {path}: {response.status} {response.text(300)}")
    return response


def answers(ready: Callable[[], bool]) -> bool:
    """Whether it is ready; one that can't be reached yet, or answers with an error, is not."""
    try:
        return ready()
    except (OSError, RuntimeError):
        return False
