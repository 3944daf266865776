"""Vault records cached in Redis, and Redis keys that hide cached records of old passwords.

After a change of password, a Redis key with the old lookup in its name holds the vault's id.
Processes then ignore cached records of this vault under this lookup.
"""

import struct
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import cast

from redis import Redis

from iot_cipher.vault import VaultRecord
from iot_models.names import KeyNames

from .key_deletion import delete_key

CACHE_SECONDS = 86_400
HIDE_SECONDS = CACHE_SECONDS + 3600
"""How long records under the lookup of an old password are hidden after the change of password.

Redis keeps a record for `CACHE_SECONDS`. This time is longer, so that a record that a process
caches shortly after the change expires before it would be visible again."""
_BATCH = 500
_HEADER = struct.Struct("<16s32s16sB")


def encode_record(record: VaultRecord) -> bytes:
    """Encode a record for Redis."""
    head = _HEADER.pack(record.vault_id.bytes, record.lookup, record.salt, record.scrypt_log2_n)
    return head + record.wrapped_key


def decode_record(data: bytes) -> VaultRecord | None:
    """Decode a record that `encode_record` wrote. Return None if `data` is too short."""
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


def hide_records(
    client: "Redis", names: KeyNames, vault_id: uuid.UUID, lookups: Iterable[bytes]
) -> None:
    """Hide the vault's records under the lookups of its old password, for `HIDE_SECONDS`.

    A process that read Postgres before the change may cache a record after the change. Such a
    record is hidden, too. Records of other vaults stay visible: a new vault may get the old
    password. `client` may be a pipeline.
    """
    for lookup in lookups:
        client.set(names.changed_lookup(lookup), vault_id.bytes, ex=HIDE_SECONDS)


def show_records(client: "Redis", names: KeyNames, vault_id: uuid.UUID, lookup: bytes) -> None:
    """Undo `hide_records` for a lookup, because the vault has this lookup's password again.

    If the lookup is hidden for another vault, nothing changes.
    """
    if former_vaults(client, names, [lookup]) == [vault_id.bytes]:
        delete_key(client, names.changed_lookup(lookup))


def former_vaults(
    client: "Redis", names: KeyNames, lookups: Iterable[bytes]
) -> "list[bytes | None]":
    """Return, for each lookup, the id of the vault that lost it in the last 25 hours; None if no
    vault lost it.

    A vault loses a lookup when it is erased or gets another password. If several vaults lost the
    lookup, return the id of the vault that lost it last. Raises `RedisError`.
    """
    return cast("list[bytes | None]", client.mget(map(names.changed_lookup, lookups)))


def remove_record(client: "Redis", names: KeyNames, lookup: bytes) -> None:
    """Remove the cached record under a lookup."""
    delete_key(client, names.vault_record(lookup))
