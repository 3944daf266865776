"""A side of a comparison: a service that accepts readings."""

import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from bench.limits import wait_until
from bench.load import Wire, send
from iot_sensor_client import Client, Response
from iot_tools.local.child import Child, LaunchError, Program

START_SECONDS = 30
REQUEST_SECONDS = 120
ROOT = Path(__file__).parents[2]


class Side(ABC):
    """A service under load."""

    name: ClassVar[str]
    durability: str
    """What an acknowledgement and `stored` guarantee."""
    settings: str
    """Settings that affect the figures."""
    wire: Wire
    port: int
    stores_later: ClassVar[bool] = False
    """Whether the side acknowledges readings before it has stored them."""

    @abstractmethod
    def stored(self) -> int:
        """Return the number of readings stored since the start."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until all acknowledged readings are processed."""

    def send_batches(self, lanes: Sequence[Sequence[bytes]]) -> float:
        """Send the bodies of each lane over a connection of its own, one after the other.

        Return the seconds until all bodies were acknowledged.
        """
        requests = [[self.wire.request(body) for body in lane] for lane in lanes]
        return send(self.port, requests, self.wire.status).seconds


class Peer(Side):
    """A side other than this service, with its data in a folder."""

    disk_scope: ClassVar[str] = "whole folder, WAL included"
    """What `disk_bytes` counts."""
    package: ClassVar[str] = ""
    """Debian package of `program`; empty if the peer has no program of its own."""
    program: ClassVar[str] = ""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        folder.mkdir(parents=True)

    @classmethod
    def installed(cls) -> bool:
        """Return whether the peer's program is installed."""
        return not cls.program or shutil.which(cls.program) is not None

    @abstractmethod
    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            LaunchError: the server's process ended.
            TimeoutError: the server does not answer in time.
        """

    @abstractmethod
    def stop(self) -> None:
        """Stop the server."""

    def version(self) -> str:
        """Return the version of the server's Debian package."""
        if shutil.which("dpkg-query") is None:
            return "not from a Debian package"
        command = ["dpkg-query", "--show", self.package]
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        return " ".join(result.stdout.split()) or "not from a Debian package"

    def settle(self) -> None:
        """Return immediately: most peers acknowledge readings after they have processed them."""

    def disk_bytes(self) -> int:
        """Return the bytes of the server's folder, without its log."""
        files = [path for path in self.folder.rglob("*") if path.is_file() and path.name != "log"]
        return sum(path.stat().st_size for path in files)


class HTTPPeer(Peer):
    """A peer that is one process with an HTTP port."""

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self._child: Child | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command that starts the server."""

    @abstractmethod
    def ready(self) -> bool:
        """Return whether the server answers."""

    def environment(self) -> dict[str, str] | None:
        """Return the environment of the server's process. None: the environment of this process."""
        return None

    def prepare(self) -> None:
        """Prepare the server after its start, for example create a database."""

    def start(self) -> None:
        """Start the server's process and wait until the server answers."""
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
        """Stop the server's process."""
        if self._child is not None:
            self._child.stop()

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
    """Return whether a side is ready. A refused connection or an error response means no."""
    try:
        return ready()
    except (OSError, RuntimeError):
        return False
