"""Functions that bring Redis into each state of its documentation."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from iot_tools.local.child import Program
from iot_tools.local.redis_server import RedisServer
from support.waiting import wait_until

USER, PASSWORD = "service", "of the service"
_SLOW_KEYS = 250_000
_SET_OFTEN = "for number = 1, ARGV[1] do redis.call('SET', KEYS[1], number) end"


class ProvokedRedis(RedisServer):
    """A server of a given program with a user for the service."""

    def __init__(self, directory: Path, program: str) -> None:
        super().__init__(directory)
        self._program = program
        self._lines_of_test: list[str] = []

    def _prepare(self) -> Program:
        program = super()._prepare()
        return dataclasses.replace(program, arguments=[self._program, *program.arguments[1:]])

    def _lines(self) -> list[str]:
        rights = f"user {USER} on >{PASSWORD.replace(' ', '')} ~* &* +@all"
        return [*super()._lines(), rights, *self._lines_of_test]

    @property
    def service_url(self) -> str:
        """Return the URL for the services."""
        return f"redis://{USER}:{PASSWORD.replace(' ', '')}@127.0.0.1:{self.port}/0"

    def admin(self, **options: Any) -> "Redis":
        """Return a client of the administrator."""
        return Redis.from_url(self.url, socket_timeout=20, **options)

    def restart(self, *lines: str) -> None:
        """Restart with these lines in redis.conf. Return before the data is loaded."""
        self.stop()
        self._lines_of_test = list(lines)
        self.spawn()


Provoked = Callable[[ProvokedRedis], AbstractContextManager[None]]


@contextmanager
def read_only(server: ProvokedRedis) -> Iterator[None]:
    """Make the server a replica of a missing master."""
    with server.admin() as admin:
        admin.replicaof("127.0.0.1", "1")
        try:
            yield
        finally:
            admin.replicaof("NO", "ONE")


@contextmanager
def master_down(server: ProvokedRedis) -> Iterator[None]:
    """Make the server a replica of a missing master that serves no stale data."""
    with _configured(server, "replica-serve-stale-data", "no", "yes"), read_only(server):
        yield


@contextmanager
def no_replicas(server: ProvokedRedis) -> Iterator[None]:
    """Require a replica that does not exist."""
    with _configured(server, "min-replicas-to-write", "1", "0"):
        yield


@contextmanager
def out_of_memory(server: ProvokedRedis) -> Iterator[None]:
    """Set the memory limit below the used memory."""
    with _configured(server, "maxmemory", "1", "0"):
        yield


@contextmanager
def misconfigured(server: ProvokedRedis) -> Iterator[None]:
    """Make the last snapshot fail: a directory has the name of its file."""
    taken = server.directory / "dump.rdb"
    taken.unlink(missing_ok=True)
    taken.mkdir()
    with server.admin() as admin, _configured(server, "save", "3600 1", ""):
        admin.bgsave()
        wait_until(lambda: _snapshot(admin) == "err", what="a snapshot that fails")
        try:
            yield
        finally:
            taken.rmdir()
            admin.bgsave()
            wait_until(lambda: _snapshot(admin) == "ok", what="a snapshot")


@contextmanager
def busy(server: ProvokedRedis) -> Iterator[None]:
    """Run an endless script."""
    with server.admin() as admin:
        admin.config_set("lua-time-limit", 20)
        thread = threading.Thread(target=_spin, args=(server,))
        thread.start()
        wait_until(lambda: _refused(admin, "BUSY"), what="a busy server")
        try:
            yield
        finally:
            admin.script_kill()
            thread.join()


@contextmanager
def loading(server: ProvokedRedis) -> Iterator[None]:
    """Restart the server, which loads its data slowly."""
    load_slowly(server)
    try:
        yield
    finally:
        server.kill()
        server.restart()
        wait_until(server.ready, what="loaded data")


def load_slowly(server: ProvokedRedis) -> None:
    """Restart the server, and return in the state LOADING, which lasts at least 10 s."""
    with server.admin() as admin:
        admin.eval(_SET_OFTEN, 1, "slow", _SLOW_KEYS)
    server.restart("key-load-delay 50")
    with server.admin(retry=None) as admin:
        wait_until(lambda: _refused(admin, "Redis is loading", "loading the"), what="LOADING")


@contextmanager
def no_permission(server: ProvokedRedis) -> Iterator[None]:
    """Revoke the rights to append to streams and to trim them."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", USER, "-xadd", "-xtrim", "-set")
        try:
            yield
        finally:
            admin.execute_command("ACL", "SETUSER", USER, "+@all")


@contextmanager
def wrong_password(server: ProvokedRedis) -> Iterator[None]:
    """Change the password, and close the connections."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", USER, "resetpass", ">another")
        _end_connections(admin)
        try:
            yield
        finally:
            right = ">" + PASSWORD.replace(" ", "")
            admin.execute_command("ACL", "SETUSER", USER, "resetpass", right)


@contextmanager
def too_many_clients(server: ProvokedRedis) -> Iterator[None]:
    """Allow only the connection of the administrator."""
    with server.admin() as admin:
        admin.config_set("maxclients", 1)
        _end_connections(admin)
        try:
            yield
        finally:
            admin.config_set("maxclients", 1000)


STATES: Mapping[str, tuple[Provoked, str]] = {
    "READONLY": (read_only, "READONLY"),
    "MASTERDOWN": (master_down, "READONLY"),
    "NOREPLICAS": (no_replicas, "NOREPLICAS"),
    "OOM": (out_of_memory, "OOM"),
    "MISCONF": (misconfigured, "MISCONF"),
    "BUSY": (busy, "BUSY"),
    "LOADING": (loading, "LOADING"),
    "NOPERM": (no_permission, "NOPERM"),
    "WRONGPASS": (wrong_password, "WRONGPASS"),
    "MAXCLIENTS": (too_many_clients, "MAXCLIENTS"),
}
"""The function that provokes each state, and the state that only a write reports."""


@contextmanager
def _configured(server: ProvokedRedis, name: str, value: str, usual: str) -> Iterator[None]:
    with server.admin() as admin:
        admin.config_set(name, value)
        try:
            yield
        finally:
            admin.config_set(name, usual)


def _snapshot(admin: "Redis") -> str:
    info = cast("dict[str, str]", admin.info("persistence"))
    return "" if info["rdb_bgsave_in_progress"] else info["rdb_last_bgsave_status"]


def _spin(server: ProvokedRedis) -> None:
    with server.admin(retry=None) as client:
        try:
            client.eval("while true do end", 0)
        except RedisError:
            return  # the script was killed


def _refused(client: "Redis", *words: str) -> bool:
    try:
        client.get("x")
    except RedisError as error:
        return any(word in str(error) for word in words)
    return False


def _end_connections(admin: "Redis") -> None:
    """Close the connections of the service."""
    admin.client_kill_filter(user=USER)
