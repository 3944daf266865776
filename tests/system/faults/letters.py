"""A fault in which an entry is damaged in Redis, until an operator drops the dead letter."""

from collections.abc import Callable

from iot_stores.backlog import Backlog
from iot_stores.dead_letters import DeadLetter, DeadLetters
from iot_tools.local.child import wait_until
from support.draining import read_waiting
from support.keys import KEYS
from system.faults.asking import ask
from system.faults.fault import Scene
from system.faults.service import SHARDS

_PATIENCE_SECONDS = 120.0


def damaged_entry(scene: Scene) -> None:
    """Append a damaged copy of an entry. It must become a dead letter, which an operator drops."""
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        backlog = Backlog(client, KEYS, shards=SHARDS, max_bytes=2**40)
        shard, sealed = _damaged_copy(backlog)
        backlog.append([(shard, sealed)])

        def letters() -> list[DeadLetter]:
            return [each for each in DeadLetters(client, KEYS).all() if each.sealed == sealed]

        def is_dropped() -> bool:
            for letter in letters():
                # API and writers may be down just now. The order can be repeated.
                ask(scene.service.port, "DELETE", f"/api/dead-letters/{letter.letter_id}")
            return not letters()

        _wait(lambda: bool(letters()), "the damaged entry is no dead letter")
        scene.last()
        _wait(is_dropped, "the dead letter is not dropped")


def _damaged_copy(backlog: Backlog) -> tuple[int, bytes]:
    found: list[tuple[int, bytes]] = []

    def find() -> bool:
        for shard in range(SHARDS):
            found.extend(
                (shard, entry.sealed) for entry in read_waiting(backlog, shard, max_bytes=1)
            )
        return bool(found)

    _wait(find, "no entry waits in the backlog")
    shard, sealed = found[0]
    return shard, sealed[:-1] + bytes([sealed[-1] ^ 1])


def _wait(condition: Callable[[], bool], problem: str) -> None:
    if not wait_until(condition, _PATIENCE_SECONDS):
        raise TimeoutError(problem)
