"""Restore the stores that an earlier version left behind, recorded under `tests/fixtures`."""

import base64
import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis

from iot_cipher.encryption import decrypt, derive, encrypt
from iot_cipher.keyring import Keyring, parse_keyring

FIXTURES = Path(__file__).parents[1] / "fixtures"
STREAM_PREFIX = "iot:ingest:"

Json = dict[str, Any]


@dataclass(frozen=True)
class RecordedVersion:
    """The files of one recorded version."""

    directory: Path

    @property
    def keyring_file(self) -> Path:
        """The keyring of the recorded data."""
        return self.directory / "keyring.json"

    @cached_property
    def expected(self) -> Json:
        """Readings by password, requests with an Idempotency-Key, and maxtime."""
        content: Json = json.loads(self._text("expected.json"))
        return content

    def restore_postgres(self, url: str) -> None:
        """Restore the recorded database into the empty database at `url`.

        Set the time at which each session was last seen to now, because the writer forgets a
        session after 90 days.
        """
        sql = self._text("postgres.sql").encode()
        with psycopg.connect(url) as connection:
            connection.execute(sql)
            connection.execute("UPDATE public.ingest_sessions SET seen_at = now()")

    def restore_redis(self, client: "Redis") -> None:
        """Restore every key into an empty Redis.

        Seal the entries now, because a drain refuses an entry that is older than 60 days. Keys
        expire as long from now as they would have expired after the recording.
        """
        keyring = parse_keyring(self._text("keyring.json"))
        for key, recorded in json.loads(self._text("redis.json")).items():
            value = recorded["value"]
            if key.startswith(STREAM_PREFIX):
                value = _sealed_now(keyring, int(key.removeprefix(STREAM_PREFIX)), value)
            _RESTORE[recorded["type"]](client, key, value)
            if "expires_ms" in recorded:
                client.pexpire(key, recorded["expires_ms"])

    def _text(self, name: str) -> str:
        return (self.directory / name).read_text(encoding="utf-8")


# --- Entries of the backlog, in format 1 of the envelope and format 1 of the entry -------------

_ENVELOPE = struct.Struct(">BI16sQ")
_SEALED_AT = struct.Struct("<q")
_SEALED_AT_OFFSET = 66


def seal_now(keyring: Keyring, shard: int, sealed: bytes) -> bytes:
    """Seal an entry again, now, with the same session and number.

    This function does not use `Sealer`, as the entry must keep the format of the
    recorded version if the current format changes.
    """
    header, message = sealed[: _ENVELOPE.size], sealed[_ENVELOPE.size :]
    version, key_id, session, _ = _ENVELOPE.unpack(header)
    assert version == 1
    key = derive(keyring.transit_key(key_id), salt=session, info=b"iot-sensor session v1")
    associated = header + struct.pack(">H", shard)
    entry = bytearray(decrypt(key, message, associated))
    _SEALED_AT.pack_into(entry, _SEALED_AT_OFFSET, int(time.time() * 1000))
    return header + encrypt(key, bytes(entry), associated)


def _sealed_now(keyring: Keyring, shard: int, stream: Json) -> Json:
    """Return a recorded stream with its entries sealed now. The size of an entry does not change,
    so the byte counts of the backlog stay correct.
    """
    entries = [
        [entry_id, {**fields, "e": _encoded(seal_now(keyring, shard, _decoded(fields["e"])))}]
        for entry_id, fields in stream["entries"]
    ]
    return {**stream, "entries": entries}


# --- Keys of Redis ----------------------------------------------------------------------------


def _restore_string(client: "Redis", key: str, value: str) -> None:
    client.set(key, _decoded(value))


def _restore_hash(client: "Redis", key: str, value: Mapping[str, str]) -> None:
    client.hset(key, mapping=_fields(value))


def _restore_list(client: "Redis", key: str, value: list[str]) -> None:
    client.rpush(key, *map(_decoded, value))


def _restore_set(client: "Redis", key: str, value: list[str]) -> None:
    client.sadd(key, *map(_decoded, value))


def _restore_sorted_set(client: "Redis", key: str, value: list[tuple[str, str]]) -> None:
    client.zadd(key, {_decoded(member): float(score) for member, score in value})


def _restore_stream(client: "Redis", key: str, value: Json) -> None:
    # A stream without entries still has a last id; only a consumer group creates such a stream.
    client.xgroup_create(key, "restore", mkstream=True)
    client.xgroup_destroy(key, "restore")
    for entry_id, fields in value["entries"]:
        client.xadd(key, _fields(fields), id=entry_id)
    execute: Callable[..., object] = client.execute_command  # redis-py has no method for XSETID
    execute("XSETID", key, value["last_id"])


_RESTORE: dict[str, Callable[["Redis", str, Any], None]] = {
    "string": _restore_string,
    "hash": _restore_hash,
    "list": _restore_list,
    "set": _restore_set,
    "zset": _restore_sorted_set,
    "stream": _restore_stream,
}


def _fields(recorded: Mapping[str, str]) -> dict[Any, Any]:
    return {name: _decoded(value) for name, value in recorded.items()}


def _decoded(text: str) -> bytes:
    """Return the bytes of a recorded value."""
    prefix, _, encoded = text.partition("base64:")
    return text.encode() if prefix or not encoded else base64.b64decode(encoded)


def _encoded(value: bytes) -> str:
    """Return the recorded form of bytes."""
    return "base64:" + base64.b64encode(value).decode()
