"""Vault records cached in Redis, and Redis keys that hide cached records of old passwords.

After a change of password, a Redis key with the old lookup in its name holds the vault's id.
Processes then ignore cached records of this vault under this lookup.
"""

import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import cast

from redis import Redis

from iot_cipher.vault import VaultRecord
from iot_models.names import KeyNames

from .key_deletion import delete_key
from .scripts import load_script, run_all

CACHE_SECONDS = 86_400
HIDE_SECONDS = CACHE_SECONDS + 3600
"""How long records under the lookup of an old password are hidden after the change of password.

Redis keeps a record for `CACHE_SECONDS`. Hiding lasts longer, so that a record that a process
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
    """Remove the vault's cached records under the lookups of its old password. Hide later ones.

    A process that read Postgres before the change of password may cache a record afterwards. Such a
    record is hidden for `HIDE_SECONDS`. Records of other vaults stay, and stay visible: a new vault
    may have the old password. Raises `RedisError`.
    """
    _remove(client, names, vault_id, lookups, HIDE_SECONDS)


def show_records(
    client: "Redis", names: KeyNames, vaults: Mapping[bytes, uuid.UUID], *, hidden_for: int = 0
) -> None:
    """Undo `hide_records` for lookups, because their vaults have these lookups (again).

    `vaults` has the vault of each lookup. Nothing changes for a lookup that is hidden for another
    vault, or that was hidden less than `hidden_for` seconds ago. Raises `RedisError`.
    """
    former = former_vaults(client, names, vaults) if vaults else []
    for (lookup, vault_id), hidden in zip(vaults.items(), former, strict=True):
        name = names.changed_lookup(lookup)
        if hidden == vault_id.bytes and client.ttl(name) <= HIDE_SECONDS - hidden_for:
            delete_key(client, name)


def former_vaults(
    client: "Redis", names: KeyNames, lookups: Iterable[bytes]
) -> "list[bytes | None]":
    """Return, for each lookup, the id of the vault that lost it in the last 25 hours; None if no
    vault lost it.

    A vault loses a lookup when it is erased or gets another password. If several vaults lost the
    lookup, return the id of the vault that lost it last. Raises `RedisError`.
    """
    return cast("list[bytes | None]", client.mget(map(names.changed_lookup, lookups)))


def remove_record(client: "Redis", names: KeyNames, vault_id: uuid.UUID, lookup: bytes) -> None:
    """Remove the vault's cached record under a lookup. The record of another vault stays.

    Raises `RedisError`.
    """
    _remove(client, names, vault_id, [lookup], 0)


def _remove(
    client: "Redis",
    names: KeyNames,
    vault_id: uuid.UUID,
    lookups: Iterable[bytes],
    hide_seconds: int,
) -> None:
    keys = [
        name
        for lookup in lookups
        for name in (names.vault_record(lookup), names.changed_lookup(lookup))
    ]
    script = load_script(client, "vault_record_hide.lua")
    run_all(client, script, [(keys, [vault_id.bytes, hide_seconds])])
