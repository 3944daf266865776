"""Confirmation that entries are on replicas or disks, by WAIT or WAITAOF."""

from dataclasses import dataclass
from typing import Any

from redis import Redis

from .redis_connections import renew_connections

WAIT_MILLISECONDS = 2000
"""Timeout of WAIT and WAITAOF. With `appendfsync everysec`, an fsync comes every second."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Which replicas and disks must have an entry before a drain stores it."""

    replicas: int = 0
    """Number of replicas that must have the entries."""
    fsync: bool = False
    """Whether the entries must be on disk, in Redis and in `replicas` replicas."""
    of_appends: bool = True
    """Whether appends wait for the replicas and disks. Drains always wait."""

    @property
    def command(self) -> tuple[Any, ...]:
        """The command that waits for replicas and disks; () if neither is required.

        The command waits for all earlier writes of its connection.
        """
        if self.fsync:
            return ("WAITAOF", 1, self.replicas, WAIT_MILLISECONDS)
        return ("WAIT", self.replicas, WAIT_MILLISECONDS) if self.replicas else ()

    def missing(self, answer: Any, client: "Redis") -> str:
        """Return a sentence about replicas or disks that lack the entries; empty if all have them.

        `answer` is Redis's answer to `command`. If replicas lack the entries, close the connections
        of `client`: they may lead to an old master that is cut off from its replicas.
        """
        local, replicas = answer if self.fsync else (1, answer)
        if replicas < self.replicas:
            renew_connections(client)
            return f"{replicas} of {self.replicas} replicas have the readings"
        return "" if local else "Redis has not put the readings on its disk"


NO_CONFIRMATION = Confirmation()
