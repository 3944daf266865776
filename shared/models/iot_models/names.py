"""Names that stand in Redis, so that each is spelled once."""

JOB_QUEUE = "iot"
"""The RQ queue of every job."""

JOB_LIST = f"rq:queue:{JOB_QUEUE}"
"""The list in which RQ keeps the ids of that queue's waiting jobs."""

SWEEP_JOB = "sweep"
PARTITIONS_JOB = "partitions"
RETENTION_JOB = "retention"
COMPACT_JOB = "compact"
INDEXES_JOB = "indexes"
UPGRADE_JOB = "upgrade"

BACKLOG_COUNTERS = "iot:backlog"
"""Hash: `bytes` waiting in all, `in:<shard>` and `out:<shard>` bytes ever added and removed."""

DEAD_LETTERS = "iot:dead"
"""Stream of entries that could not be opened or stored, with their reasons."""

DEAD_LETTER_IDS = "iot:dead:ids"
"""Set of `<shard> <entry id>` of the entries in that stream."""

COMPACTION_ORDERS = "iot:compaction:orders"
"""List of sealed orders to merge small segments."""


MOST_SHARDS = 256


def stream(shard: int) -> str:
    """The stream in which a shard's entries wait."""
    return f"iot:ingest:{shard}"


DRAIN_JOBS = "drain-"
"""What the ids of all drains begin with."""


def drain_job(shard: int) -> str:
    """Id of the RQ job that drains a shard."""
    return f"{DRAIN_JOBS}{shard}"


def vault_record(lookup: bytes) -> str:
    """Cached record of a vault: what stands in Postgres too."""
    return f"iot:vault:{lookup.hex()}"


def hot_index(vault_id: bytes) -> str:
    """Sorted set of a vault's segments in the hot window, by time of receipt."""
    return f"iot:hot:index:{vault_id.hex()}"


def hot_segment(vault_id: bytes, first_id: int) -> str:
    """One encrypted segment in the hot window."""
    return f"iot:hot:segment:{vault_id.hex()}:{first_id}"


def hot_cover(shard: int) -> str:
    """Hash: `since` when the hot window holds all of a shard, and up to which `position`."""
    return f"iot:hot:cover:{shard}"


def compaction_looked(vault_id: bytes) -> str:
    """Set while a vault's latest segments need not be looked at again for small ones."""
    return f"iot:compaction:looked:{vault_id.hex()}"


def compaction_looked_back(vault_id: bytes) -> str:
    """Set while a vault's whole history need not be looked at again for small segments."""
    return f"iot:compaction:looked-back:{vault_id.hex()}"


def remembered_request(digest: bytes) -> str:
    """First answer of a request that came with an Idempotency-Key."""
    return f"iot:request:{digest.hex()}"


REMEMBERED_COUNTS = "iot:requests"
"""Hash: how many requests came with an Idempotency-Key, by when they came."""


def remembered_of_client(client: str) -> str:
    """How many of them came from a client."""
    return f"iot:requests:{client}"


def guesses(client: str) -> str:
    """Unknown passwords a client named in the minute that runs."""
    return f"iot:guesses:{client}"


def tick(job: str) -> str:
    """Set while a periodic job is not due."""
    return f"iot:tick:{job}"
