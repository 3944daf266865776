"""The faults: each is done to the service, lasts its seconds, and is over when it returns."""

import os
import random
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from faults.keeper import Keeper
from faults.processes import children, freeze, thaw, title
from faults.proxy import Proxy
from faults.service import API_WORKERS, Service
from faults.small_disk import DISK_FULL
from iot_tools.local.child import wait_until


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault is given: the service, how long to last, chance, and a word to end early."""

    service: Service
    seconds: float
    chance: random.Random
    over: threading.Event

    def last(self) -> None:
        """Let the fault last."""
        self.over.wait(self.seconds)


_SIGNAL_SECONDS = 5.0
_MOST_SIGNALS = 4

Act = Callable[[Scene], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. Two of the same target never overlap. `stops` says what can't be expected
    while it lasts: that requests are acknowledged, that readings are stored.
    """

    name: str
    target: str
    stops: frozenset[str]
    act: Act


def _strike(keeper: Keeper, number: int) -> None:
    keeper.wait_ready()
    pid = keeper.part.pid
    os.kill(pid, number)
    keeper.wait_respawned(pid)


def _api(scene: Scene, number: int) -> None:
    _strike(scene.service.api, number)


def _api_worker(scene: Scene, number: int) -> None:
    keeper = scene.service.api
    keeper.wait_ready()
    master = keeper.part.pid
    worker = scene.chance.choice(children(master))

    def replaced() -> bool:
        now = children(master)
        return worker not in now and len(now) >= API_WORKERS

    for _ in range(_MOST_SIGNALS):
        os.kill(worker, number)
        # gunicorn's worker misses a signal that comes before it has set itself up for it.
        if wait_until(replaced, _SIGNAL_SECONDS):
            return
        if worker not in children(master):
            break
    if not wait_until(replaced, 60):
        raise TimeoutError("the API's worker was not replaced")


def _writer(scene: Scene, number: int) -> None:
    _strike(scene.chance.choice(scene.service.writers), number)


def _writers(scene: Scene, number: int) -> None:
    writers = scene.service.writers
    for each in writers:
        each.wait_ready()
    pids = [each.part.pid for each in writers]
    for pid in pids:
        os.kill(pid, number)
    for each, pid in zip(writers, pids, strict=True):
        each.wait_respawned(pid)


def _redis(scene: Scene, number: int) -> None:
    _strike(scene.service.redis, number)


def _postgres(scene: Scene, number: int) -> None:
    _strike(scene.service.postgres, number)


def _postgres_smart(scene: Scene) -> None:
    """SIGTERM waits for clients that don't leave and takes no new ones; then a faster stop."""
    keeper = scene.service.postgres
    keeper.wait_ready()
    pid = keeper.part.pid
    os.kill(pid, signal.SIGTERM)
    scene.last()
    if keeper.part.pid == pid and keeper.part.running:
        keeper.part.kill(signal.SIGINT)
    keeper.wait_respawned(pid)


def _postgres_backend(scene: Scene) -> None:
    """Postgres then ends all its backends and recovers."""
    keeper = scene.service.postgres

    def clients() -> list[int]:
        own = children(keeper.part.pid) if keeper.part.running else []
        return [pid for pid in own if "127.0.0.1(" in title(pid)]

    if not wait_until(lambda: bool(clients()), 30):
        raise TimeoutError("Postgres has no clients")
    os.kill(scene.chance.choice(clients()), signal.SIGKILL)


def _frozen(scene: Scene, keeper: Keeper) -> None:
    keeper.wait_ready()
    pid = keeper.part.pid
    freeze(pid)
    try:
        scene.last()
    finally:
        thaw(pid)


def _redis_frozen(scene: Scene) -> None:
    _frozen(scene, scene.service.redis)


def _postgres_frozen(scene: Scene) -> None:
    _frozen(scene, scene.service.postgres)


def _redis_full(scene: Scene) -> None:
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 65_536)
        try:
            scene.last()
        finally:
            client.config_set("maxmemory", 0)


def _postgres_read_only(scene: Scene) -> None:
    scene.service.postgres.wait_ready()
    _read_only(scene.service, "on")
    try:
        scene.last()
    finally:
        _read_only(scene.service, "off")


def _postgres_disk_full(scene: Scene) -> None:
    disk = scene.service.disk
    if disk is None:
        raise LookupError("there is no small disk")
    disk.fill()
    try:
        scene.last()
    finally:
        disk.clear()


def _read_only(service: Service, state: str) -> None:
    with service.direct_postgres() as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}".encode())
        connection.execute("SELECT pg_reload_conf()")


def _proxy(scene: Scene, store: str) -> Proxy:
    return scene.service.to_redis if store == "redis" else scene.service.to_postgres


def _slow(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.slow(scene.chance.uniform(0.02, 0.2))
    try:
        scene.last()
    finally:
        proxy.slow(0)


def _hole(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.hold(holding=True)
    try:
        scene.last()
    finally:
        proxy.hold(holding=False)


def _cut(scene: Scene, store: str) -> None:
    proxy = _proxy(scene, store)
    proxy.cut(cutting=True)
    try:
        scene.last()
    finally:
        proxy.cut(cutting=False)


ACKNOWLEDGE, STORE = "acknowledge", "store"
_ALL = frozenset({ACKNOWLEDGE, STORE})
_STORING = frozenset({STORE})
_SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}


def _signalled(
    target: str, name: str, stops: frozenset[str], act: Callable[..., None]
) -> list[Kind]:
    return [
        Kind(f"{name}: {said}", target, stops, partial(act, number=number))
        for said, number in _SIGNALS.items()
    ]


def _network(store: str, stops: frozenset[str]) -> list[Kind]:
    acts = {"slow": _slow, "cut": _cut, "holding everything": _hole}
    return [
        Kind(f"network to {store}: {how}", store, stops, partial(act, store=store))
        for how, act in acts.items()
    ]


KINDS: tuple[Kind, ...] = (
    *_signalled("api", "API worker", frozenset(), _api_worker),
    *_signalled("api", "API master", _ALL, _api),
    *_signalled("writer", "a writer", frozenset(), _writer),
    *_signalled("writer", "both writers", _STORING, _writers),
    *_signalled("redis", "Redis", _ALL, _redis),
    Kind("Redis: frozen", "redis", _ALL, _redis_frozen),
    Kind("Redis: out of memory", "redis", _ALL, _redis_full),
    *_network("redis", _ALL),
    Kind("Postgres: SIGKILL", "postgres", _STORING, partial(_postgres, number=signal.SIGKILL)),
    Kind("Postgres: SIGTERM, then SIGINT", "postgres", _STORING, _postgres_smart),
    Kind("Postgres: SIGINT", "postgres", _STORING, partial(_postgres, number=signal.SIGINT)),
    Kind("Postgres: SIGQUIT", "postgres", _STORING, partial(_postgres, number=signal.SIGQUIT)),
    Kind("Postgres: a backend's SIGKILL", "postgres", _STORING, _postgres_backend),
    Kind("Postgres: frozen", "postgres", _STORING, _postgres_frozen),
    Kind("Postgres: read-only", "postgres", _STORING, _postgres_read_only),
    Kind(DISK_FULL, "postgres", _STORING, _postgres_disk_full),
    *_network("postgres", _STORING),
)
