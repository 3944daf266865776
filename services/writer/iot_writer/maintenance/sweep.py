"""The sweep: finds shards whose drain died with its worker, or whose wake-up got lost."""

import logging
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_models import names
from iot_stores import ledger
from iot_stores.backlog import Backlog
from iot_stores.backlog_counters import BacklogCounters
from iot_stores.held_entries import HeldEntries
from iot_stores.postgres import Connection
from iot_stores.store_states import report

STALE_SECONDS = 1.0
"""Entries that wait longer than this in a shard without a queued drain were left behind."""

_log = logging.getLogger(__name__)


def sweep(backlog: Backlog) -> int:
    """Queue a drain for each such shard; how many. One too many does no harm: it finds the
    shard taken, or empty.
    """
    # Of an age below 0 it can't be told how long they wait.
    stale = [shard for shard, age in backlog.oldest_ages().items() if not 0 <= age <= STALE_SECONDS]
    queued = backlog.enqueue_once([names.drain_job(shard) for shard in stale]) if stale else 0
    if queued:
        _log.info("queued the drains of %d shards that were left behind", queued)
    return queued


def recount(counters: BacklogCounters) -> None:
    """Count the counters of the backlog anew if something else wrote to them."""
    try:
        damaged = counters.recount()
    except RedisError as error:
        report(_log, "damaged counters of the backlog are not counted anew", error)
        return
    if damaged:
        _log.error(
            "the counters of the backlog in Redis were damaged and are counted anew: %s; look for "
            "what else writes to this Redis",
            ", ".join(damaged),
        )


def release_held(held: HeldEntries, connect: Callable[[], Connection]) -> int:
    """Put the entries of vaults that Postgres has by now back into the backlog; of how many vaults.

    Raises:
        psycopg.Error, RedisError: a part is away; what is held stays held.
    """
    vaults = held.vaults()
    if not vaults:
        return 0
    there = ledger.existing_vaults(connect(), vaults.keys())
    for vault_id in sorted(there):
        held.release(vault_id)
        _log.info("Postgres has vault %s again: %d entries released", vault_id, vaults[vault_id])
    return len(there)
