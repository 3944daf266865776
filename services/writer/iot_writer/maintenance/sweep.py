"""The sweep: queues drains that were lost, repairs keys in Redis and releases held entries."""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_models import names
from iot_stores import ledger
from iot_stores.backlog import Backlog
from iot_stores.backlog_counters import BacklogCounters
from iot_stores.erasures import erased_among
from iot_stores.held_entries import HeldEntries
from iot_stores.mistyped_keys import MistypedKeys
from iot_stores.postgres import Connection
from iot_stores.store_states import report

STALE_SECONDS = 1.0
"""The sweep queues a drain for each shard whose oldest entry is older than this."""

_log = logging.getLogger(__name__)


def sweep(backlog: Backlog) -> int:
    """Queue a drain for each shard with an entry older than `STALE_SECONDS`, unless it is queued.

    Return how many drains were added to the queue. An old entry suggests that a drain was lost, for
    example because its writer died. A needless drain is harmless: it finds the shard empty or
    locked.
    """
    # An age is negative if Redis's clock was set back: the entry may be stale.
    stale = [shard for shard, age in backlog.oldest_ages().items() if not 0 <= age <= STALE_SECONDS]
    queued = backlog.enqueue_once([names.drain_job(shard) for shard in stale]) if stale else 0
    if queued:
        _log.info("queued lost drains of %d shards", queued)
    return queued


def repair(counters: BacklogCounters, mistyped: MistypedKeys, backlog: Backlog) -> None:
    """Repair what another program has damaged in Redis.

    If a counter of the backlog is damaged or missing, recount all counters. Delete keys that hold a
    value of another type.
    """
    try:
        damaged = counters.recount()
        deleted = mistyped.delete(backlog.shards())
    except RedisError as error:
        report(_log, "keys and counters in Redis are not checked", error)
        return
    if damaged:
        _log.error(
            "counters of the backlog in Redis were wrong and have been recounted: %s; find out "
            "which other program writes to this Redis, or why Redis refuses appends",
            ", ".join(damaged),
        )
    if deleted:
        _log.error(
            "keys in Redis held values of another type and have been deleted: %s; find out which "
            "other program writes to this Redis",
            ", ".join(deleted),
        )


def release_held(held: HeldEntries, connect: Callable[[], Connection]) -> int:
    """Release held entries whose vaults are back in Postgres. Return how many vaults are back.

    Delete held entries whose vaults were erased: these vaults never come back.

    Raises:
        psycopg.Error, RedisError: a store is away; the remaining entries stay held.
    """
    vaults = held.vaults()
    if not vaults:
        return 0
    present = ledger.existing_vaults(connect(), vaults.keys())
    for vault_id in erased_among(connect(), vaults.keys() - present):
        held.drop(vault_id)
        _log.info("deleted %d held entries: vault %s was erased", vaults[vault_id], vault_id)
    for vault_id in sorted(present):
        held.release(vault_id)
        _log.info(
            "released %d held entries: vault %s is back in Postgres", vaults[vault_id], vault_id
        )
    return len(present)
