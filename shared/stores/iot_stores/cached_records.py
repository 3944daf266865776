"""Vault records as Redis has them."""

import struct
import uuid
from collections.abc import Iterator
from itertools import islice
from typing import cast

from redis import Redis

from iot_cipher.vault import VaultRecord
from iot_models.names import KeyNames

_BATCH = 500
_HEADER = struct.Struct("<16s32s16sB")


def encode_record(record: VaultRecord) -> bytes:
    """Encode a record for Redis."""
    head = _HEADER.pack(record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n)
    return head + record.wrapped_key


def decode_record(data: bytes) -> VaultRecord | None:
    """Decode a record that `encode_record` wrote. Return None if it was cut."""
    try:
        vault_id, lookup, salt, log2_n = _HEADER.unpack_from(data)
    except struct.error:
        return None
    return VaultRecord(uuid.UUID(bytes=vault_id), lookup, salt, log2_n, data[_HEADER.size :])


def scan_records(client: "Redis", names: KeyNames) -> Iterator[VaultRecord]:
    """Yield every record in Redis. Scans all keys of Redis."""
    found = cast("Iterator[bytes]", client.scan_iter(match=names.all_vault_records, count=_BATCH))
    while batch := list(islice(found, _BATCH)):
        for data in cast("list[bytes | None]", client.mget(batch)):
            record = None if data is None else decode_record(data)
            if record is not None:
                yield record
