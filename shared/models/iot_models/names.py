"""Names that stand in Redis, so that each is spelled once."""

import re
from dataclasses import dataclass

from .errors import SettingsError

JOB_QUEUE = "iot"
"""The RQ queue of every job."""

SWEEP_JOB = "sweep"
PARTITIONS_JOB = "partitions"
RETENTION_JOB = "retention"
COMPACT_JOB = "compact"
INDEXES_JOB = "indexes"
UPGRADE_JOB = "upgrade"

MAX_SHARDS = 256
_LONGEST_PREFIX = 64

DRAIN_JOB_PREFIX = "drain-"
"""What the ids of all drains begin with."""


def drain_job(shard: int) -> str:
    """Id of the RQ job that drains a shard."""
    return f"{DRAIN_JOB_PREFIX}{shard}"


@dataclass(frozen=True, slots=True)
class KeyNames:
    """The names of all keys of a release."""

    prefix: str
    """Stands before each name (`IOT_REDIS_KEY_PREFIX`), so that releases can share a Redis."""

    @property
    def rq(self) -> str:
        """What the names of RQ's keys and channels begin with."""
        return f"{self.prefix}rq"

    @property
    def owner(self) -> str:
        """The installation that all these keys belong to."""
        return f"{self.prefix}iot:owner"

    @property
    def owner_keyring(self) -> str:
        """The mark of the keyring that they were written with."""
        return f"{self.prefix}iot:owner:keyring"

    @property
    def job_list(self) -> str:
        """The list in which RQ keeps the ids of the waiting jobs."""
        return f"{self.rq}:queue:{JOB_QUEUE}"

    @property
    def backlog_counters(self) -> str:
        """Hash: `bytes` waiting in all, `in:<shard>` and `out:<shard>` bytes ever added and
        removed, `at:<shard>` and `next:<shard>` up to where it is drained and its next id, `held`
        entries that wait for their vaults.
        """
        return f"{self.prefix}iot:backlog"

    @property
    def unused_stream(self) -> str:
        """A stream that never exists: readiness tries writes on it, which change nothing."""
        return f"{self.prefix}iot:ingest:unused"

    @property
    def held_vaults(self) -> str:
        """Hash: how many entries are held of each vault that Postgres does not have."""
        return f"{self.prefix}iot:held"

    @property
    def dead_letters(self) -> str:
        """Stream of entries that could not be opened or stored, with their reasons."""
        return f"{self.prefix}iot:dead"

    @property
    def dead_letter_ids(self) -> str:
        """Set of `<shard> <entry id>` of the entries in that stream."""
        return f"{self.prefix}iot:dead:ids"

    @property
    def compaction_orders(self) -> str:
        """List of sealed orders to merge small segments."""
        return f"{self.prefix}iot:compaction:orders"

    @property
    def remembered_counts(self) -> str:
        """Hash: how many requests came with an Idempotency-Key, by when they came."""
        return f"{self.prefix}iot:requests"

    def stream(self, shard: int) -> str:
        """The stream in which a shard's entries wait."""
        return f"{self.prefix}iot:ingest:{shard}"

    def held_entries(self, vault_id: bytes) -> str:
        """The stream of a vault's entries that are held."""
        return f"{self.prefix}iot:held:{vault_id.hex()}"

    def vault_record(self, lookup: bytes) -> str:
        """Cached record of a vault: what stands in Postgres too."""
        return f"{self.prefix}iot:vault:{lookup.hex()}"

    def replaced_vault_record(self, vault_id: bytes) -> str:
        """Record of a vault in whose place Postgres has another one. Does not expire."""
        return f"{self.prefix}iot:vault:replaced:{vault_id.hex()}"

    @property
    def all_vault_records(self) -> str:
        """Pattern of the names of all vault records."""
        return f"{self.prefix}iot:vault:*"

    def hot_index(self, vault_id: bytes) -> str:
        """Sorted set of a vault's segments in the hot window, by time of receipt."""
        return f"{self.prefix}iot:hot:index:{vault_id.hex()}"

    def hot_segment(self, vault_id: bytes, first_id: int) -> str:
        """One encrypted segment in the hot window."""
        return f"{self.prefix}iot:hot:segment:{vault_id.hex()}:{first_id}"

    def hot_cover(self, shard: int) -> str:
        """Hash: `since` when the hot window holds all of a shard, and up to which `position`."""
        return f"{self.prefix}iot:hot:cover:{shard}"

    def compaction_looked(self, vault_id: bytes) -> str:
        """Set while a vault's latest segments need not be looked at again for small ones."""
        return f"{self.prefix}iot:compaction:looked:{vault_id.hex()}"

    def compaction_looked_back(self, vault_id: bytes) -> str:
        """Set while a vault's whole history need not be looked at again for small segments."""
        return f"{self.prefix}iot:compaction:looked-back:{vault_id.hex()}"

    def remembered_request(self, digest: bytes) -> str:
        """First answer of a request that came with an Idempotency-Key."""
        return f"{self.prefix}iot:request:{digest.hex()}"

    def remembered_of_client(self, client: str) -> str:
        """How many of them came from a client."""
        return f"{self.prefix}iot:requests:{client}"

    def guesses(self, client: str) -> str:
        """Unknown passwords a client named in the minute that runs."""
        return f"{self.prefix}iot:guesses:{client}"

    def tick(self, job: str) -> str:
        """When a periodic job was queued, in Unix seconds of Redis; set while it is not due."""
        return f"{self.prefix}iot:tick:{job}"


def parse_key_prefix(text: str) -> KeyNames:
    """The names with a prefix. All before the first part that is `iot` or `rq` is the prefix, so
    two releases with different prefixes have no key in common.

    Raises:
        SettingsError: it is no prefix.
    """
    *parts, rest = text.split(":")
    if (
        len(text) > _LONGEST_PREFIX
        or rest
        or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts)
        or {"iot", "rq"} & set(parts)
    ):
        raise SettingsError(
            "a prefix is made of letters, digits, _, . and -, and ends with a colon, such as "
            f"berlin: (at most {_LONGEST_PREFIX} characters; iot: and rq: are taken)"
        )
    return KeyNames(text)
