"""Faults that move the name of a store to another server."""

import os
import signal

from support.keys import KEYS
from system.faults.fault import Scene

_LAG_SECONDS = 1.0
"""Maximum delay between the promotion of a primary and the move of its name."""


def wait_redis_in_step(scene: Scene) -> None:
    scene.service.redis_pair.wait_in_step()


def move_redis(scene: Scene) -> None:
    """Promote the replica. Open connections stay with the old primary, now a replica."""
    service = scene.service
    service.redis_pair.move()
    scene.over.wait(scene.chance.uniform(0, _LAG_SECONDS))
    service.to_redis.lead_to(service.redis_pair.primary.port)


def make_standby(scene: Scene) -> None:
    scene.service.postgres_pair.make_standby()


def move_postgres(scene: Scene) -> None:
    """Promote the standby. Open connections stay with the old primary, which is read-only."""
    service = scene.service
    pair = service.postgres_pair
    try:
        pair.let_primary_read_only()
        pair.promote()
    except BaseException:
        pair.primary.set("default_transaction_read_only", "off")
        raise
    pair.check_same()
    scene.over.wait(scene.chance.uniform(0, _LAG_SECONDS))
    service.to_postgres.lead_to(pair.primary.port or 0)


def restore_postgres(scene: Scene) -> None:
    """Promote a standby that lags some seconds. Postgres loses the newest vaults, segments and rows
    of the ledger, and Redis loses nothing.

    Readings that were stored and trimmed in those seconds would be lost, as documented in
    docs/reliability.md, so the fault prevents trimming. The writers end before trimming is allowed
    again: a writer that committed to the old primary would trim entries that the new primary lacks.
    """
    service = scene.service
    pair = service.postgres_pair
    _let_trim(scene, allowed=False)
    try:
        pair.wait_replayed()  # the standby needs the readings of trimmed entries
        pair.stop_following()
        scene.last()
        pair.end_primary()
        pair.promote()
        for writer in service.writers:
            writer.wait_ready()
            pid = writer.part.pid
            os.kill(pid, signal.SIGKILL)
            writer.wait_respawned(pid)
        service.to_redis.cut(cutting=True)
        service.to_redis.cut(cutting=False)
    finally:
        _let_trim(scene, allowed=True)
    service.to_postgres.lead_to(pair.primary.port or 0)


def _let_trim(scene: Scene, *, allowed: bool) -> None:
    """Allow or forbid that clients of Redis trim streams."""
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        client.execute_command("ACL", "SETUSER", "default", f"{'+' if allowed else '-'}xtrim")


def lose_vault_rows(scene: Scene) -> None:
    """Delete rows of vaults with records in Redis, as a promotion of a lagging standby does."""
    service = scene.service
    service.redis.wait_ready()
    service.postgres.wait_ready()
    with service.direct_redis() as redis, service.direct_postgres() as postgres:
        rows = postgres.execute("SELECT lookup FROM vaults ORDER BY created_at").fetchall()
        lookups = [lookup for (lookup,) in rows]
        held = redis.mget([KEYS.vault_record(lookup) for lookup in lookups]) if lookups else []
        known = [lookup for lookup, record in zip(lookups, held, strict=True) if record]
        lost = known[-scene.chance.randint(1, max(1, len(known))) :]
        # A restore checks no foreign keys and runs no triggers.
        postgres.execute("SET session_replication_role = replica")
        postgres.execute("DELETE FROM vaults WHERE lookup = ANY (%s)", [lost])
