"""Faults in which a running store refuses commands: no memory, a full disk, read-only."""

from system.faults.fault import Scene
from system.faults.service import Service

_ROLE = "ALTER ROLE CURRENT_USER"


def redis_full(scene: Scene) -> None:
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        used = client.info("memory")["used_memory"]
        client.config_set("maxmemory", used + 65_536)
        try:
            scene.last()
        finally:
            client.config_set("maxmemory", 0)


def postgres_read_only(scene: Scene) -> None:
    scene.service.postgres.wait_ready()
    _read_only(scene.service, "on")
    try:
        scene.last()
    finally:
        _read_only(scene.service, "off")


def postgres_sessions_read_only(scene: Scene) -> None:
    """Make sessions read-only that start during the fault. They stay read-only until they end."""
    scene.service.postgres.wait_ready()
    with scene.service.direct_postgres() as connection:
        connection.execute(f"{_ROLE} SET default_transaction_read_only = on".encode())
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
    try:
        scene.last()
    finally:
        with scene.service.direct_postgres() as connection:
            connection.execute(f"{_ROLE} RESET default_transaction_read_only".encode())


def redis_evicting(scene: Scene) -> None:
    """Set an eviction policy in a Redis with free memory, so that no key is lost. The API must
    become not ready.
    """
    service = scene.service
    service.redis.wait_ready()
    with service.direct_redis() as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            scene.last()
            service.wait_unready("maxmemory-policy")
        finally:
            client.config_set("maxmemory-policy", "noeviction")


def postgres_disk_full(scene: Scene) -> None:
    disk = scene.service.disk
    if disk is None:
        raise LookupError("the run has no small disk")
    disk.fill()
    try:
        scene.last()
    finally:
        disk.clear()


def _read_only(service: Service, state: str) -> None:
    with service.direct_postgres() as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {state}".encode())
        connection.execute("SELECT pg_reload_conf()")
