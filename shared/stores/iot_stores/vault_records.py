"""Vault records: in Postgres for good, in Redis for a day, so that Postgres may be away."""

import logging
import struct
import uuid
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from iot_cipher.vault import VaultRecord
from iot_models import names

from .postgres import Pool

CACHE_SECONDS = 86_400

_log = logging.getLogger(__name__)

_SELECT = """
    SELECT vault_id, lookup, salt, scrypt_log2_n, wrapped_key FROM vaults WHERE lookup = %s
"""
_INSERT = """
    INSERT INTO vaults (vault_id, lookup, salt, scrypt_log2_n, wrapped_key)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT (lookup) DO NOTHING
"""
_HEADER = struct.Struct("<16s32s16sB")


class VaultRecords:
    """Finds and adds vaults by the lookup of their password."""

    def __init__(self, client: "Redis", pool: Pool) -> None:
        self._client = client
        self._pool = pool

    def find(self, lookup: bytes) -> VaultRecord | None:
        """The record, or None when there is no such vault.

        Raises:
            psycopg.OperationalError: it can't be told now: Postgres is away, and Redis doesn't
                hold it.
        """
        try:
            cached = cast("bytes | None", self._client.get(names.vault_record(lookup)))
        except RedisError as error:
            _log.warning("a vault is looked up in Postgres, Redis is away: %s", error)
            return self._in_postgres(lookup)  # and not cached: that would wait for Redis again
        if cached is not None:
            return _decode(cached)
        record = self._in_postgres(lookup)
        if record is not None:
            self._cache(record)
        return record

    def add(self, record: VaultRecord) -> VaultRecord:
        """Store a new vault; the record that stands, which is another's if that came first."""
        values = (
            record.vault_id,
            record.lookup,
            record.salt,
            record.scrypt_log2_n,
            record.wrapped_key,
        )
        with self._pool.connection() as connection:
            if connection.execute(_INSERT, values).rowcount:
                self._cache(record)
                return record
            row = connection.execute(_SELECT, (record.lookup,)).fetchone()
        return VaultRecord(*cast("tuple[uuid.UUID, bytes, bytes, int, bytes]", row))

    def _in_postgres(self, lookup: bytes) -> VaultRecord | None:
        with self._pool.connection() as connection:
            row = connection.execute(_SELECT, (lookup,)).fetchone()
        if row is None:
            return None
        return VaultRecord(*cast("tuple[uuid.UUID, bytes, bytes, int, bytes]", row))

    def _cache(self, record: VaultRecord) -> None:
        encoded = (
            _HEADER.pack(record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n)
            + record.wrapped_key
        )
        try:
            self._client.set(names.vault_record(record.lookup), encoded, ex=CACHE_SECONDS)
        except RedisError as error:
            _log.warning("a vault's record is not cached, Redis is away: %s", error)


def _decode(data: bytes) -> VaultRecord:
    vault_id, lookup, salt, log2_n = _HEADER.unpack_from(data)
    return VaultRecord(uuid.UUID(bytes=vault_id), lookup, salt, log2_n, data[_HEADER.size :])
