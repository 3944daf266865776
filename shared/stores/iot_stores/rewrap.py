"""Rewrap vault records: encrypt the outer wrap again, with the primary master key.

Each change is a compare-and-swap on the old wrap, so processes may change records meanwhile. The
key id in a record says whether the record is done, so a rewrap that was killed can be repeated.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, LiteralString, cast

from redis import Redis

from iot_cipher.keyring import Keyring
from iot_cipher.vault import VaultRecord, is_rewrapped, rewrap_vault
from iot_models.errors import DecryptionError
from iot_models.names import KeyNames

from .cached_records import decode_record, encode_record
from .erasures import erased_among
from .postgres import Connection
from .recorded_vaults import COLUMNS
from .scripts import load_script, run_all
from .vault_records import find_by_ids

BATCH = 200
LOCK = 0x696F746B
"""Key of the advisory lock for commands that change which master keys are needed."""

_UNDER_OTHER_KEYS: LiteralString = """
    FROM vaults WHERE substring(wrapped_key FROM 2 FOR 4) <> %s
"""
_COUNT: LiteralString = f"SELECT count(*) {_UNDER_OTHER_KEYS}"
_SELECT: LiteralString = f"""
    SELECT {COLUMNS} {_UNDER_OTHER_KEYS}
    AND vault_id > %s ORDER BY vault_id LIMIT %s
"""
_SWAP = """
    UPDATE vaults SET wrapped_key = changed.after
    FROM unnest(%s::uuid[], %s::bytea[], %s::bytea[]) AS changed (id, before, after)
    WHERE vault_id = changed.id AND wrapped_key = changed.before
    RETURNING vault_id
"""
_NO_ID = uuid.UUID(int=0)

Change = tuple[bytes, bytes, bytes]
"""Name, old value and new value of a record in Redis. An empty new value removes the record."""


@dataclass(slots=True)
class Rewrapped:
    """The result of a rewrap."""

    postgres: int = 0
    redis: int = 0
    damaged: list[uuid.UUID] = field(default_factory=list)
    """Vaults whose record in Postgres can't be opened with any master key of the keyring."""


class Rewrap:
    """Rewraps the records in Postgres and in Redis with the primary key of one keyring."""

    def __init__(self, client: "Redis", names: KeyNames, keyring: Keyring) -> None:
        self._client = client
        self._names = names
        self._keyring = keyring
        self._primary = keyring.primary_id.to_bytes(4, "big")
        self._replace = load_script(client, "vault_record_replace.lua")
        self.result = Rewrapped()

    def waiting(self, connection: Connection) -> int:
        """Return the number of records in Postgres that still need another master key."""
        row = connection.execute(_COUNT, (self._primary,)).fetchone()
        return cast("tuple[int]", row)[0]

    def rewrap_postgres(self, connection: Connection, progress: Callable[[int], None]) -> None:
        """Rewrap all records in Postgres, batch by batch, and their copies in Redis.

        `progress` gets the number of records that are done.

        Raises:
            psycopg.Error, RedisError: a store is away. The records done so far stay rewrapped.
        """
        last = _NO_ID
        while records := self._read(connection, last):
            last = records[-1].vault_id
            pairs = []
            for record in records:
                try:
                    pairs.append((record, rewrap_vault(self._keyring, record)))
                except DecryptionError:
                    self.result.damaged.append(record.vault_id)
            self._swap(connection, pairs)
            progress(self.result.postgres)

    def rewrap_redis(self, connection: Connection) -> None:
        """Rewrap the records in Redis that `rewrap_postgres` did not rewrap. Scans all keys.

        These are records that a process read in Postgres before the rewrap and cached afterwards,
        and records of vaults that Postgres lacks. Records of erased vaults, which an old copy of
        Redis may have brought back, are removed.

        Raises:
            psycopg.Error, RedisError: a store is away. The records done so far stay rewrapped.
        """
        pattern = self._names.all_vault_records
        names = cast("Iterator[bytes]", self._client.scan_iter(match=pattern, count=1000))
        while batch := list(islice(names, BATCH)):
            values = cast("list[bytes | None]", self._client.mget(batch))
            old: dict[bytes, tuple[bytes, VaultRecord]] = {}
            for name, value in zip(batch, values, strict=True):
                record = None if value is None else decode_record(value)
                if value and record and record.master_key_id != self._keyring.primary_id:
                    old[name] = value, record
            if not old:
                continue
            stored = find_by_ids(connection, [record.vault_id for _, record in old.values()])
            missing = {record.vault_id for _, record in old.values()} - stored.keys()
            erased = erased_among(connection, missing)
            self._apply(
                [
                    (
                        name,
                        value,
                        b""
                        if record.vault_id in erased
                        else self._renewed(name, record, stored.get(record.vault_id)),
                    )
                    for name, (value, record) in old.items()
                ]
            )

    def _read(self, connection: Connection, last: uuid.UUID) -> list[VaultRecord]:
        found = connection.execute(_SELECT, (self._primary, last, BATCH)).fetchall()
        return [VaultRecord(*row) for row in cast("Sequence[Sequence[Any]]", found)]

    def _swap(
        self, connection: Connection, pairs: Sequence[tuple[VaultRecord, VaultRecord]]
    ) -> None:
        if not pairs:
            return
        rows = connection.execute(
            _SWAP,
            (
                [old.vault_id for old, _ in pairs],
                [old.wrapped_key for old, _ in pairs],
                [new.wrapped_key for _, new in pairs],
            ),
        ).fetchall()
        swapped = {vault_id for (vault_id,) in cast("list[tuple[uuid.UUID]]", rows)}
        self.result.postgres += len(swapped)
        self._apply(
            [
                (
                    self._names.vault_record(old.lookup).encode(),
                    encode_record(old),
                    encode_record(new),
                )
                for old, new in pairs
                if old.vault_id in swapped
            ]
        )

    def _renewed(self, name: bytes, record: VaultRecord, stored: VaultRecord | None) -> bytes:
        """Return the new value for the Redis key `name`; empty to remove the record.

        A record that no master key opens is removed, except in two cases: Postgres lacks the vault,
        or `name` is the key for a replaced vault (`KeyNames.replaced_vault_record`). In both cases,
        the record stays unchanged: it may be the only copy, and the keyring may lack its master key
        by mistake.
        """
        if stored is not None and is_rewrapped(self._keyring, record, stored):
            return encode_record(stored)
        try:
            return encode_record(rewrap_vault(self._keyring, record))
        except DecryptionError:
            replaced = name == self._names.replaced_vault_record(record.vault_id.bytes).encode()
            return encode_record(record) if replaced or stored is None else b""

    def _apply(self, changes: Sequence[Change]) -> None:
        calls = [([name], [old, new]) for name, old, new in changes]
        self.result.redis += sum(run_all(self._client, self._replace, calls))


def try_lock(connection: Connection) -> bool:
    """Take the lock for commands that change which master keys are needed (`LOCK`).

    The lock lasts until the connection is closed. Return False if another connection holds it.
    """
    row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK,)).fetchone()
    return bool(row and row[0])
