"""Names of keys, queues and jobs in Redis. Each name is spelled only here."""

import re
from dataclasses import dataclass

from .errors import SettingsError

JOB_QUEUE = "iot"
"""The RQ queue of all jobs."""

SWEEP_JOB = "sweep"
PARTITIONS_JOB = "partitions"
RETENTION_JOB = "retention"
COMPACT_JOB = "compact"
INDEXES_JOB = "indexes"
UPGRADE_JOB = "upgrade"
JOBS = (SWEEP_JOB, PARTITIONS_JOB, RETENTION_JOB, COMPACT_JOB, INDEXES_JOB, UPGRADE_JOB)
"""Ids of all jobs but the drains."""

MAX_SHARDS = 256
_MAX_PREFIX_LENGTH = 64

DRAIN_JOB_PREFIX = "drain-"
"""Prefix of the job ids of all drains."""


def drain_job(shard: int) -> str:
    """Return the id of the RQ job that drains a shard."""
    return f"{DRAIN_JOB_PREFIX}{shard}"


@dataclass(frozen=True, slots=True)
class KeyNames:
    """The names of all Redis keys of a release. Each docstring says what the key holds."""

    prefix: str
    """Prefix of all names (`IOT_REDIS_KEY_PREFIX`), so that releases can share a Redis."""

    @property
    def rq(self) -> str:
        """Prefix of the names of RQ's keys and channels."""
        return f"{self.prefix}rq"

    @property
    def owner(self) -> str:
        """Key that holds the id of the installation that owns the keys of this release."""
        return f"{self.prefix}iot:owner"

    @property
    def owner_keyring(self) -> str:
        """Key that holds the mark of the installation's keyring, derived from its pepper."""
        return f"{self.prefix}iot:owner:keyring"

    @property
    def job_list(self) -> str:
        """The list in which RQ keeps the ids of the waiting jobs."""
        return f"{self.rq}:queue:{JOB_QUEUE}"

    @property
    def backlog_counters(self) -> str:
        """Hash with the counters of the backlog.

        `bytes`: size of the backlog. `in:<shard>`, `out:<shard>`: bytes ever added and removed.
        `at:<shard>`: offset of the shard. `next:<shard>`: id of its next reading. `held`: number of
        held entries. `session_renewals`: how often writers asked for new sessions. `rate`: bytes
        drained per second; `measured` and `measured_at` serve to compute it. `moved_at`: when a
        drain last removed entries of vaults that now belong to another shard, or entries that the
        hot window may lack. Reads use the hot window only for readings received later. `whole`: set
        by a recount (`BacklogCounters`). `confirmed`: see `backlog_confirm.lua`.
        """
        return f"{self.prefix}iot:backlog"

    @property
    def unused_stream(self) -> str:
        """A stream that never exists.

        Readiness checks use it to try whether Redis accepts XADD (with NOMKSTREAM) and XTRIM: these
        commands do not create the stream.
        """
        return f"{self.prefix}iot:ingest:unused"

    @property
    def held_vaults(self) -> str:
        """Hash: number of held entries of each vault."""
        return f"{self.prefix}iot:held"

    @property
    def dead_letters(self) -> str:
        """Stream of the dead letters, with their reasons."""
        return f"{self.prefix}iot:dead"

    @property
    def dead_letter_ids(self) -> str:
        """Set of `<shard> <entry id>` of all dead letters."""
        return f"{self.prefix}iot:dead:ids"

    @property
    def dead_letter_orders(self) -> str:
        """Hash: the sealed order to replay or drop a dead letter, by the id of the dead letter."""
        return f"{self.prefix}iot:dead:orders"

    @property
    def compaction_orders(self) -> str:
        """List of sealed compaction orders."""
        return f"{self.prefix}iot:compaction:orders"

    @property
    def audit_head(self) -> str:
        """Key that holds the head of the audit log's hash chain, as writers last published it."""
        return f"{self.prefix}iot:audit:head"

    @property
    def remembered_counts(self) -> str:
        """Hash: number of remembered requests with an Idempotency-Key, by period of arrival.

        A period is a 24th of the time for which a request is remembered.
        """
        return f"{self.prefix}iot:requests"

    def stream(self, shard: int) -> str:
        """Return the key of the stream of a shard in the backlog."""
        return f"{self.prefix}iot:ingest:{shard}"

    def held_entries(self, vault_id: bytes) -> str:
        """Return the key of the stream of the held entries of a vault."""
        return f"{self.prefix}iot:held:{vault_id.hex()}"

    def vault_record(self, lookup: bytes) -> str:
        """Return the key of the cached record of a vault. Postgres has the record, too."""
        return f"{self.prefix}iot:vault:{lookup.hex()}"

    def replaced_vault_record(self, vault_id: bytes) -> str:
        """Return the key that holds the record of a replaced vault. The key does not expire.

        A vault is replaced if Postgres loses it, and then a new vault is created for its password.
        """
        return f"{self.prefix}iot:vault:replaced:{vault_id.hex()}"

    def changed_lookup(self, lookup: bytes) -> str:
        """Return the key that holds the id of the vault that last lost `lookup`, because it was
        erased or its password was changed."""
        return f"{self.prefix}iot:vault:changed:{lookup.hex()}"

    @property
    def password_changes(self) -> str:
        """Stream of the latest changes of passwords, which API processes follow."""
        return f"{self.prefix}iot:vault:changes"

    @property
    def all_vault_records(self) -> str:
        """A pattern that matches the keys of all vault records.

        The pattern also matches the keys of `changed_lookup` and `password_changes`.
        """
        return f"{self.prefix}iot:vault:*"

    def hot_index(self, vault_id: bytes) -> str:
        """Return the key of the sorted set of a vault's segments in the hot window.

        The score of a segment is its last time of receipt.
        """
        return f"{self.prefix}iot:hot:index:{vault_id.hex()}"

    def hot_segment(self, vault_id: bytes, first_id: int) -> str:
        """Return the key of one encrypted segment in the hot window."""
        return f"{self.prefix}iot:hot:segment:{vault_id.hex()}:{first_id}"

    def hot_hidden(self, vault_id: bytes) -> str:
        """Return the key that, while it exists, makes reads of a vault use Postgres.

        An erasure of readings sets the key, because the hot window may hold erased readings.
        """
        return f"{self.prefix}iot:hot:hidden:{vault_id.hex()}"

    def hot_cover(self, shard: int) -> str:
        """Return the key of the hash with the cover of a shard."""
        return f"{self.prefix}iot:hot:cover:{shard}"

    def compaction_looked(self, vault_id: bytes) -> str:
        """Return the key that a process sets before it searches a vault's latest segments for small
        ones to merge.

        While the key exists, no other process begins this search.
        """
        return f"{self.prefix}iot:compaction:looked:{vault_id.hex()}"

    def compaction_looked_back(self, vault_id: bytes) -> str:
        """Return the key that a process sets before it searches a vault's whole history for small
        segments to merge.

        While the key exists, no other process begins this search.
        """
        return f"{self.prefix}iot:compaction:looked-back:{vault_id.hex()}"

    def remembered_request(self, digest: bytes) -> str:
        """Return the key that holds the first answer to a request with an Idempotency-Key."""
        return f"{self.prefix}iot:request:{digest.hex()}"

    def remembered_of_client(self, client: str) -> str:
        """Return the key of the counter of a client's remembered requests (Idempotency-Key)."""
        return f"{self.prefix}iot:requests:{client}"

    def guesses(self, client: str) -> str:
        """Return the key of the counter of a client's unknown passwords. It expires in a minute."""
        return f"{self.prefix}iot:guesses:{client}"

    def loaded_keys(self, process: str) -> str:
        """Return the Redis key of a process's report: which master keys the process has loaded.

        The report has only the ids and fingerprints of the keys. It expires a few seconds after the
        process ends.
        """
        return f"{self.prefix}iot:loaded:{process}"

    @property
    def heartbeats(self) -> str:
        """Stream of the heartbeats of all processes.

        The name begins like the names of `loaded_keys`, so that the ACL file of an earlier version
        allows writing to the stream.
        """
        return f"{self.prefix}iot:loaded:heartbeats"

    def new_vaults(self, client: str) -> str:
        """Return the key of the counter of a client's new vaults. It expires in a minute."""
        return f"{self.prefix}iot:guesses:new-vaults:{client}"

    def rate(self, minute: int, policy: str, name: str) -> str:
        """Return the key of a counter: the requests of one address, or of one token, in one minute.

        `minute`: minutes since 1970. `policy`: `address` or `token`. `name`: the address, or the
        name of the token.
        """
        return f"{self.prefix}iot:rates:{minute}:{policy}:{name}"

    def tick(self, job: str) -> str:
        """Return the key that holds the time at which a periodic job was last queued.

        The time is in Unix seconds, by Redis's clock. The key expires when the job is due again.
        """
        return f"{self.prefix}iot:tick:{job}"


def parse_key_prefix(text: str) -> KeyNames:
    """Check a prefix, such as `berlin:`, and return the names of all Redis keys with this prefix.

    In every key, `iot` or `rq` follows the prefix, and no part of a prefix is `iot` or `rq`. So
    releases with different prefixes never share a key.

    Raises:
        SettingsError: the prefix is invalid.
    """
    *parts, rest = text.split(":")
    if (
        len(text) > _MAX_PREFIX_LENGTH
        or rest
        or not all(re.fullmatch(r"[A-Za-z0-9_.-]+", part) for part in parts)
        or {"iot", "rq"} & set(parts)
    ):
        raise SettingsError(
            f"a prefix must have at most {_MAX_PREFIX_LENGTH} characters and end with a colon, "
            "such as 'berlin:'; the parts before colons may have only letters, digits, _, . and -, "
            "and may not be iot or rq"
        )
    return KeyNames(text)
