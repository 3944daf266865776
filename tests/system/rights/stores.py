"""Stores with the users of production."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg
from psycopg.conninfo import make_conninfo
from redis import Redis
from redis.exceptions import RedisError

from iot_tools.local.child import Child, Program
from iot_tools.local.ports import free_port
from iot_tools.local.redis_server import find_redis
from iot_writer.schema import migrate
from support.redis_programs import other_programs
from support.waiting import wait_until

PRODUCTION = Path(__file__).parents[3] / "charts" / "iot-sensor" / "production"
USERS = ("admin", "iot_api", "iot_writer", "iot_rotation")


def servers() -> dict[str, str]:
    """Return the available Redis programs by name."""
    others = {name: str(path) for name, path in other_programs().items()}
    return {"system": find_redis()[0], **others}


class RedisWithUsers:
    """A server with the users of redis-users.acl for one key prefix."""

    def __init__(self, directory: Path, program: str, *, prefix: str = "") -> None:
        directory.mkdir()
        self.port = free_port()
        text = (PRODUCTION / "redis-users.acl").read_text(encoding="utf-8")
        for user in USERS:
            placeholder = f"{user.removeprefix('iot_').upper()}_PASSWORD_SHA256"
            assert text.count(placeholder) == 1
            text = text.replace(placeholder, hashlib.sha256(user.encode()).hexdigest())
        text = re.sub(r" ~(iot|rq):", rf" ~{prefix}\1:", text)  # as in docs/stores.md
        (directory / "users.acl").write_text(text, encoding="utf-8")
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"dir {directory}",
            'save ""',
            "appendonly yes",
            f"aclfile {directory / 'users.acl'}",
        ]
        (directory / "redis.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        arguments = [program, str(directory / "redis.conf")]
        self._child = Child(Program(name="redis", arguments=arguments, log=directory / "log"))
        self._child.spawn()
        wait_until(self._answers, what="Redis")

    def url(self, user: str) -> str:
        """Return the URL of a user. In tests, the password is the user name."""
        return f"redis://{user}:{user}@127.0.0.1:{self.port}/0"

    def client(self, user: str) -> "Redis":
        """Return a client of a user."""
        return Redis.from_url(self.url(user), socket_timeout=2)

    def denied(self) -> list[str]:
        """Return the refused commands, with the user and the context."""
        with self.client("admin") as admin:
            entries = cast("list[dict[str, object]]", admin.acl_log())
        return [
            f"{each['username']}: {each['reason']} {each['object']}"
            for each in entries
            # redis-py sends CLIENT SETINFO, which Redis 6.2 lacks and writers may not use.
            if each["object"] not in {"client", "client|setinfo"}
        ]

    def stop(self) -> None:
        """Stop the server."""
        self._child.stop()

    def _answers(self) -> bool:
        try:
            with self.client("admin") as client:
                return bool(client.ping())
        except RedisError:
            return False


@dataclass(frozen=True)
class Database:
    """A database with the roles of postgres-roles.sql."""

    admin_url: str

    def url(self, role: str) -> str:
        """Return the URL of a role. The server requires no password on its socket."""
        return make_conninfo(self.admin_url, user=role)

    def connect(self, role: str) -> psycopg.Connection[tuple[object, ...]]:
        """Return a connection of a role in autocommit mode."""
        return psycopg.connect(self.url(role), autocommit=True)

    def create_roles(self) -> None:
        """Create the roles, as an administrator does once."""
        text = (PRODUCTION / "postgres-roles.sql").read_text(encoding="utf-8")
        with psycopg.connect(self.admin_url) as connection:
            connection.execute(re.sub(r"^--.*$", "", text, flags=re.MULTILINE).encode())

    def migrate(self) -> None:
        """Migrate the database, as the Job of the chart does before each release."""
        migrate(self.url("iot_migration"), grant=True)


def command(environment: Mapping[str, str], *arguments: str) -> str:
    """Run `iot-sensor`, check its exit code, and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "iot_tools", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
