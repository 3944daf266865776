"""Two Redis servers, a primary and its replica, which can swap their roles."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

from redis import Redis

from iot_tools.local.child import wait_until
from iot_tools.local.redis_server import RedisServer
from system.faults.keeper import Keeper, keep

_PASSWORD = "redis-of-the-fault-harness"
_MOVE_SECONDS = 10


class Member(RedisServer):
    """One of the two servers. Both have the same password, which each needs after a promotion."""

    def __init__(self, directory: Path, log: Path, fsync: Path) -> None:
        config = [f"include {fsync}", f"masterauth {_PASSWORD}"]
        config += ["repl-diskless-sync yes", "repl-diskless-sync-delay 0", "repl-timeout 20"]
        super().__init__(directory, config=config, log=log)
        self._password = _PASSWORD

    def client(self, timeout: float = 5.0) -> "Redis":
        """Return a client of this member."""
        return Redis.from_url(self.url, socket_timeout=timeout, socket_connect_timeout=2)

    def replication(self) -> dict[str, Any]:
        """Return the role and the replicas from INFO."""
        with self.client() as client:
            return cast("dict[str, Any]", client.info("replication"))


class RedisPair:
    """Two running members. The replica follows the primary through kills and restarts."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._fsync = folder / "fsync.conf"
        self._fsync.write_text("appendfsync everysec\n", encoding="utf-8")
        self._members = [
            Member(folder / f"redis-{number}", folder / f"redis-{number}.log", self._fsync)
            for number in range(2)
        ]
        self._keepers = [keep(stack, f"redis-{n}", each) for n, each in enumerate(self._members)]
        for keeper in self._keepers:
            keeper.wait_ready()
        self._follow()

    @property
    def primary(self) -> Member:
        """The member that takes writes."""
        return self._members[0]

    @property
    def replica(self) -> Member:
        """The member that follows the primary."""
        return self._members[1]

    @property
    def keeper(self) -> Keeper:
        """The keeper of the primary."""
        return self._keepers[0]

    def sync(self, how: str) -> None:
        """Set `appendfsync` of both members, now and for every later start."""
        self._fsync.write_text(f"appendfsync {how}\n", encoding="utf-8")
        for member in self._members:
            with member.client() as client:
                client.config_set("appendfsync", how)

    def wait_in_step(self) -> None:
        """Wait until the replica has all earlier writes of the primary."""
        self.keeper.wait_ready()
        self._follow()
        if not wait_until(self._in_step, 60, interval=0.05):
            raise TimeoutError("the Redis replica does not follow")

    def move(self) -> None:
        """Swap the roles without losing writes. Only connections of blocked clients are closed."""
        primary, replica = self._members
        with primary.client() as client:
            client.execute_command(
                "FAILOVER", "TO", "127.0.0.1", replica.port, "TIMEOUT", _MOVE_SECONDS * 1000
            )
        moved = wait_until(lambda: _roles(primary, replica) == ("slave", "master"), _MOVE_SECONDS)
        if not moved:
            raise TimeoutError(f"Redis did not fail over: {_roles(primary, replica)}")
        self._members.reverse()
        self._keepers.reverse()

    def _follow(self) -> None:
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.primary.port))

    def _in_step(self) -> bool:
        said = self.primary.replication()
        replica = said.get("slave0")
        return replica is not None and replica["state"] == "online" and int(replica["lag"]) <= 1


def _roles(*members: Member) -> tuple[str, ...]:
    return tuple(str(member.replication()["role"]) for member in members)
