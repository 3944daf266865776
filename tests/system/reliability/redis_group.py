"""A Redis master, its replicas and Sentinels: real processes on loopback."""

import dataclasses
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import cast
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_tools.local.redis_server import RedisServer, find_redis
from support.waiting import wait_until

NAME = "iot"
PASSWORD = "gr@up:/?%1"
DOWN_MILLISECONDS = 1000
"""`down-after-milliseconds` of the Sentinels."""

_USER = ["requirepass", "masterauth"]


class Member(RedisServer):
    """A Redis with the password of the group, which every member may need after a promotion."""

    def __init__(
        self,
        directory: Path,
        *,
        replica_of: "Member | None" = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        lines = [f"{word} {PASSWORD}" for word in _USER]
        lines += ["repl-diskless-sync yes", "repl-diskless-sync-delay 0", "repl-timeout 5"]
        if replica_of is not None:
            lines.append(f"replicaof 127.0.0.1 {replica_of.port}")
        super().__init__(directory, config=lines)
        self._password = PASSWORD
        self._environment = environment or {}

    def _prepare(self) -> Program:
        program = super()._prepare()
        environment = {**(program.environment or {}), **self._environment}
        return dataclasses.replace(program, environment=environment)

    def ready(self) -> bool:
        """Return whether Redis has loaded its data and answers."""
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False

    def client(self) -> "Redis":
        """Return a client of this member."""
        return Redis(port=self.port, password=PASSWORD, socket_timeout=2)

    def role(self) -> str:
        """The role of this member: `master` or `slave`."""
        with self.client() as client:
            return str(cast("dict[str, str]", client.info("replication"))["role"])

    def replicas(self) -> int:
        """Return the number of replicas that are in sync."""
        with self.client() as client:
            info = cast("dict[str, object]", client.info("replication"))
        known = [value for key, value in info.items() if key.startswith("slave")]
        return sum(
            isinstance(each, dict) and each["state"] == "online" and each["lag"] <= 1
            for each in known
        )


class Sentinel:
    """One `redis-sentinel`."""

    def __init__(self, directory: Path, master: Member, *, user: str, password: str) -> None:
        """Start a Sentinel. With a `password`, clients must authenticate."""
        self._user, self._password = user or None, password or None
        directory.mkdir()
        self.port = free_port()
        config = directory / "sentinel.conf"
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            "protected-mode no",
            f"sentinel monitor {NAME} 127.0.0.1 {master.port} 2",
            f"sentinel auth-pass {NAME} {PASSWORD}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_MILLISECONDS}",
            f"sentinel failover-timeout {NAME} 5000",
        ]
        if password:
            lines += [f"requirepass {password}", f"sentinel sentinel-pass {password}"]
        if user:
            lines += [f"user {user} on >{password} ~* &* +@all", f"sentinel sentinel-user {user}"]
            lines += ["user default off"]
            lines.remove(f"requirepass {password}")
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path, _ = find_redis()
        log = directory / "sentinel.log"
        arguments = [path, config.name, "--sentinel"]
        self._child = Child(
            Program(name="sentinel", arguments=arguments, directory=directory, log=log)
        )
        self._child.spawn()
        wait_until(self._listens, what="a Sentinel")

    def _listens(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def state(self) -> dict[str, object]:
        """Return the state of the master as this Sentinel sees it."""
        with Redis(
            port=self.port, socket_timeout=2, username=self._user, password=self._password
        ) as client:
            return cast("dict[str, object]", client.sentinel_master(NAME))

    def stop(self) -> None:
        """End it."""
        self._child.stop()


class Group:
    """One master, its replicas and Sentinels."""

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int,
        sentinels: int,
        sentinel_user: str = "",
        sentinel_password: str = "",
        master_environment: Mapping[str, str] | None = None,
    ) -> None:
        self._stack = ExitStack()
        self.master = Member(directory / "redis-0", environment=master_environment)
        self.replicas = [
            Member(directory / f"redis-{number}", replica_of=self.master)
            for number in range(1, replicas + 1)
        ]
        for member in (self.master, *self.replicas):
            self._stack.callback(member.kill)
            member.start()
        wait_until(lambda: self.master.replicas() == replicas, what="replicas in step")
        self.sentinels: list[Sentinel] = []
        for number in range(sentinels):
            sentinel = Sentinel(
                directory / f"sentinel-{number}",
                self.master,
                user=sentinel_user,
                password=sentinel_password,
            )
            self.sentinels.append(sentinel)
            self._stack.callback(sentinel.stop)
        wait_until(self._settled, what="Sentinels that know one another")

    def _settled(self) -> bool:
        wanted = (len(self.sentinels) - 1, len(self.replicas))
        states = [sentinel.state() for sentinel in self.sentinels]
        return all((s["num-other-sentinels"], s["num-slaves"]) == wanted for s in states)

    @property
    def replica(self) -> Member:
        """The first replica."""
        return self.replicas[0]

    def cut_replication(self) -> None:
        """Cut the replicas off from their master, until `fail_over`. Clients still reach it."""
        self._set_of_replicas("masterauth", "wrong")
        with self.master.client() as client:
            client.client_kill_filter(_type="replica")
        wait_until(lambda: self.master.replicas() == 0, what="a cut replication")

    def fail_over(self) -> Member:
        """Kill the master, and return the replica that the Sentinels promote."""
        self.master.kill()
        self._set_of_replicas("masterauth", PASSWORD)
        promoted = wait_until(self.promoted, what="another master")
        assert promoted is not None
        return promoted

    def _set_of_replicas(self, name: str, value: str) -> None:
        for replica in self.replicas:
            with replica.client() as client:
                client.config_set(name, value)

    def promoted(self) -> Member | None:
        """The replica that is a master now."""
        return next((each for each in self.replicas if each.role() == "master"), None)

    @property
    def url(self) -> str:
        """The group's, for `IOT_REDIS_URL`."""
        if not self.sentinels:
            return self.master_url
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:{quote(PASSWORD, safe='')}@{hosts}/{NAME}/0"

    @property
    def master_url(self) -> str:
        """Of the first master alone."""
        return f"redis://:{quote(PASSWORD, safe='')}@127.0.0.1:{self.master.port}/0"

    def stop(self) -> None:
        """End all."""
        self._stack.close()
        for member in (self.master, *self.replicas):
            wait_until(lambda one=member: not one.running, what="its end")  # type: ignore[misc]
