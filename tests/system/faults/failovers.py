"""Faults in which the name of a store leads to another server from then on."""

import os
import signal

from support.keys import KEYS
from system.faults.fault import Scene

_LAG_SECONDS = 1.0
"""How much later a name may lead to the new primary than that is promoted."""


def wait_redis_in_step(scene: Scene) -> None:
    scene.service.redis_pair.wait_in_step()


def move_redis(scene: Scene) -> None:
    """The replica is promoted. Connections stay with the old primary, which is a replica now."""
    service = scene.service
    service.redis_pair.move()
    scene.over.wait(scene.chance.uniform(0, _LAG_SECONDS))
    service.to_redis.lead_to(service.redis_pair.primary.port)


def make_standby(scene: Scene) -> None:
    scene.service.postgres_pair.make_standby()


def move_postgres(scene: Scene) -> None:
    """The standby is promoted. Connections stay with the old primary, which takes no writes."""
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
    """A standby that lags is promoted: Postgres is as it was some seconds ago, without the newest
    vaults, segments and rows of the ledger, while Redis goes on.

    What was stored and trimmed in those seconds would be lost, as docs/reliability.md says. So
    nothing is trimmed in them. The writers end before entries may be trimmed again: one that
    committed to the old primary would trim what the new one lacks.
    """
    service = scene.service
    pair = service.postgres_pair
    _let_trim(scene, allowed=False)
    try:
        pair.wait_replayed()  # what was trimmed before
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
    """Let clients of Redis remove entries of streams, or not."""
    scene.service.redis.wait_ready()
    with scene.service.direct_redis() as client:
        client.execute_command("ACL", "SETUSER", "default", f"{'+' if allowed else '-'}xtrim")


def lose_vault_rows(scene: Scene) -> None:
    """Postgres loses the rows of vaults whose records Redis has, as a standby that was promoted
    before it had them.
    """
    service = scene.service
    service.redis.wait_ready()
    service.postgres.wait_ready()
    with service.direct_redis() as redis, service.direct_postgres() as postgres:
        rows = postgres.execute("SELECT lookup FROM vaults ORDER BY created_at").fetchall()
        lookups = [lookup for (lookup,) in rows]
        held = redis.mget([KEYS.vault_record(lookup) for lookup in lookups]) if lookups else []
        known = [lookup for lookup, record in zip(lookups, held, strict=True) if record]
        lost = known[-scene.chance.randint(1, max(1, len(known))) :]
        # A restore asks no foreign key and no trigger.
        postgres.execute("SET session_replication_role = replica")
        postgres.execute("DELETE FROM vaults WHERE lookup = ANY (%s)", [lost])
