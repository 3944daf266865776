"""Faults in which a store lives and refuses: no memory, no room, no writes."""

from faults.fault import Scene
from faults.service import Service


def redis_full(scene: Scene) -> None:
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 65_536)
        try:
            scene.last()
        finally:
            client.config_set("maxmemory", 0)


def redis_evicts(scene: Scene) -> None:
    """Its policy alone: nothing is evicted, since its memory has no limit."""
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            scene.last()
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def postgres_read_only(scene: Scene) -> None:
    scene.service.postgres.wait_ready()
    _read_only(scene.service, "on")
    try:
        scene.last()
    finally:
        _read_only(scene.service, "off")


def postgres_disk_full(scene: Scene) -> None:
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
