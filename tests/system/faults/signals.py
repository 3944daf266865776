"""Faults by signals: processes are killed, shut down or frozen."""

import os
import signal

from iot_tools.local.child import wait_until
from support.processes import api_workers, children, freeze, thaw, title
from system.faults.fault import Scene
from system.faults.keeper import Keeper
from system.faults.service import API_WORKERS


def strike(keeper: Keeper, number: int) -> None:
    """Send a process a signal that ends it, and wait for its restart."""
    keeper.wait_ready()
    pid = keeper.part.pid
    os.kill(pid, number)
    keeper.wait_respawned(pid)


def api_master(scene: Scene, number: int) -> None:
    strike(scene.service.api, number)


def api_worker(scene: Scene, number: int) -> None:
    keeper = scene.service.api
    keeper.wait_ready()
    master = keeper.part.pid
    worker = scene.chance.choice(sorted(api_workers(master)))
    os.kill(worker, number)

    def replaced() -> bool:
        now = children(master)
        return worker not in now and len(now) >= API_WORKERS

    if not wait_until(replaced, 60):
        raise TimeoutError("the API's worker was not replaced")


def a_writer(scene: Scene, number: int) -> None:
    strike(scene.chance.choice(scene.service.writers), number)


def both_writers(scene: Scene, number: int) -> None:
    writers = scene.service.writers
    for each in writers:
        each.wait_ready()
    pids = [each.part.pid for each in writers]
    for pid in pids:
        os.kill(pid, number)
    for each, pid in zip(writers, pids, strict=True):
        each.wait_respawned(pid)


def redis(scene: Scene, number: int) -> None:
    strike(scene.service.redis, number)


def postgres(scene: Scene, number: int) -> None:
    strike(scene.service.postgres, number)


def postgres_smart(scene: Scene) -> None:
    """Shut down Postgres with SIGTERM, which waits for open sessions, and then faster."""
    keeper = scene.service.postgres
    keeper.wait_ready()
    pid = keeper.part.pid
    os.kill(pid, signal.SIGTERM)
    scene.last()
    if keeper.part.pid == pid and keeper.part.running:
        keeper.part.kill(signal.SIGINT)
    keeper.wait_respawned(pid)


def postgres_backend(scene: Scene) -> None:
    """Kill a backend, after which Postgres terminates all backends and recovers."""
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


def redis_frozen(scene: Scene) -> None:
    _frozen(scene, scene.service.redis)


def postgres_frozen(scene: Scene) -> None:
    _frozen(scene, scene.service.postgres)
