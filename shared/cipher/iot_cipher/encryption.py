"""The encryption of readings: AES-256-GCM and HKDF-SHA256, open vaults, segments and entries.

An entry holds readings on their way from the API to a writer. It is sealed with a key that is
derived from a transit key and the entry's session. It has these fields, with their lengths in
bytes:

    version (1) | key id (4) | session (16) | number (8) | nonce (12) | ciphertext and tag

A segment holds readings as they are stored in Postgres and in the hot window. It is encrypted with
a chunk key, which is derived from the vault's data key and a salt:

    version (1) | salt (16) | nonce (12) | ciphertext and tag

An entry is authenticated together with its shard, a segment together with its vault and its bounds
(the lowest and highest ids and times). So decryption fails if somebody has moved an entry to
another shard or a segment to another vault, or has changed a segment's bounds.
"""

import hmac
import itertools
import os
import struct
import time
import uuid
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from iot_models.errors import DecryptionError, FormatError
from iot_models.reading import ReadingColumns, count_texts
from iot_models.segment import MAX_CONTENT_BYTES, SegmentBounds, decompress
from iot_models.segment_encoding import ENTRY_LEVEL, compress

from .secrets import SecretHolder

KEY_BYTES = 32
NONCE_BYTES = 12
SALT_BYTES = 16
SEGMENT_FORMAT = b"\1"
ENTRY_FORMAT, ENTRY_FORMAT_WITH_RECEIVED = 1, 2
"""The formats of an entry. Format 2 also has a time of receipt for each reading."""
COMPRESS_FROM = 512
"""Entries with fewer bytes of content are not compressed: compression would not pay."""
SEAL_FORMAT = 1
MAX_ABANDONED_NUMBERS = 100
"""A session ends after this many of its entries were not appended to the backlog."""
ENTRIES_PER_SESSION = 2**32
"""Number of entries after which a new session begins. All entries of a session are sealed with the
same key, which is derived from the transit key and the session. With random nonces, a key may
encrypt at most this many messages (NIST SP 800-38D, 8.3)."""
SESSION_SECONDS = 30 * 86_400.0
"""Time after which a new session begins. The ledger forgets a session that a shard has not seen for
90 days: if the session sent another entry then, its earlier entries would count as missing."""

_SHA256 = SHA256()
_CHUNK = b"iot-sensor chunk v1"
_FINGERPRINT = b"iot-sensor request fingerprint v1"
_SESSION = b"iot-sensor session v1"
_ENTRY_HEAD = struct.Struct("<BB16s16s32sqI")
_PLAIN, _ZSTD = 0, 1
_SEAL_HEAD = struct.Struct(">BI16sQ")
_SHARD = struct.Struct(">H")


def derive(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Derive a 32-byte key one-way. Keys of different `salt` or `info` are unrelated."""
    return HKDF(algorithm=_SHA256, length=KEY_BYTES, salt=salt, info=info).derive(key)


def encrypt(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Encrypt, and return the random nonce, the ciphertext and the tag, joined.

    A random nonce is safe for about 2**32 messages under one key (NIST SP 800-38D, 8.3).
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def decrypt(key: bytes, message: bytes | memoryview, associated: bytes) -> bytes:
    """Decrypt the result of `encrypt`.

    Raises:
        DecryptionError: the message was changed or cut, or was encrypted with another key or other
            associated data.
    """
    return _decrypt(AESGCM(key), message, associated)


def _decrypt(cipher: AESGCM, message: bytes | memoryview, associated: bytes) -> bytes:
    try:
        return cipher.decrypt(message[:NONCE_BYTES], message[NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        # One message for all causes: a reader learns nothing about the key.
        raise DecryptionError("a ciphertext could not be opened") from None


class OpenVault(SecretHolder):
    """An open vault: its data key is in memory."""

    __slots__ = ("data_key", "id_bytes", "vault_id")

    def __init__(self, vault_id: uuid.UUID, data_key: bytes) -> None:
        self.vault_id = vault_id
        self.id_bytes = vault_id.bytes
        self.data_key = data_key

    def chunk_key(self, salt: bytes) -> bytes:
        """Derive the chunk key for `salt`. The data key can't be computed from the chunk key."""
        return derive(self.data_key, salt=salt, info=_CHUNK)

    def fingerprint(self, *parts: "bytes | array[int]") -> bytes:
        """Return a 32-byte HMAC of `parts`. Its key is derived from the vault's data key."""
        key = derive(self.data_key, salt=b"", info=_FINGERPRINT)
        mac = hmac.new(key, digestmod="sha256")
        for part in parts:
            mac.update(part)
        return mac.digest()

    def shard(self, shards: int) -> int:
        """Return the shard of this vault's readings, out of `shards` shards (`shard_of`)."""
        return shard_of(self.id_bytes, shards)


def shard_of(vault_id: bytes, shards: int) -> int:
    """Return the shard of a vault's readings, out of `shards` shards.

    The choice depends on the vault's id alone, so all processes choose the same shard.
    """
    return int.from_bytes(vault_id[:8], "big") % shards


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment as it is stored: its vault, its unencrypted bounds and its ciphertext."""

    vault_id: uuid.UUID
    bounds: SegmentBounds
    payload: bytes


def encrypt_segment(
    vault_id: uuid.UUID, salt: bytes, chunk_key: bytes, bounds: SegmentBounds, content: bytes
) -> bytes:
    """Encrypt an encoded segment with the chunk key that belongs to `salt`."""
    head = SEGMENT_FORMAT + salt
    return head + encrypt(chunk_key, content, _associated(head, vault_id, bounds))


def decrypt_segment(vault: OpenVault, bounds: SegmentBounds, payload: bytes | bytearray) -> bytes:
    """Decrypt a segment and return the encoded segment.

    Raises:
        DecryptionError: payload or bounds were changed, or the segment is of another vault.
    """
    chunk_key = vault.chunk_key(salt_of(payload))
    return decrypt_with_chunk_key(vault.vault_id, chunk_key, bounds, payload)


def decrypt_with_chunk_key(
    vault_id: uuid.UUID, chunk_key: bytes, bounds: SegmentBounds, payload: bytes | bytearray
) -> bytes:
    """Decrypt a segment with its chunk key and return the encoded segment.

    Writers have no data keys, so they need this function. API processes use `decrypt_segment`.

    Raises:
        DecryptionError: payload or bounds were changed, or the segment has another vault or key.
    """
    # A memoryview, because a copy of a large payload would double the memory.
    head, message = bytes(payload[: 1 + SALT_BYTES]), memoryview(payload)[1 + SALT_BYTES :]
    if len(head) < 1 + SALT_BYTES or head[:1] != SEGMENT_FORMAT:
        raise DecryptionError("a segment has an unknown format")
    try:
        associated = _associated(head, vault_id, bounds)
    except struct.error:  # no process stores such bounds
        raise DecryptionError("a segment's bounds are out of range") from None
    return decrypt(chunk_key, message, associated)


def salt_of(payload: bytes | bytearray) -> bytes:
    """Return the salt from which the key of an encrypted segment is derived."""
    return bytes(payload[1 : 1 + SALT_BYTES])


def _associated(head: bytes, vault_id: uuid.UUID, bounds: SegmentBounds) -> bytes:
    return head + vault_id.bytes + bounds.to_bytes()


@dataclass(slots=True)
class Entry:
    """Readings of a vault, and a chunk key with which a writer can encrypt a segment of them.

    An entry is stored only in sealed form (`Sealer`).
    """

    vault_id: bytes
    """16 bytes."""
    salt: bytes
    """16 random bytes. The chunk key was derived with this salt."""
    chunk_key: bytes = field(repr=False)
    """32 bytes. The vault's data key can't be computed from the chunk key."""
    sealed_at: int
    """Time of sealing in Unix milliseconds, by the clock of the API process."""
    readings: ReadingColumns = field(repr=False)

    def encode(self) -> bytes:
        """Return the entry as bytes: in format 2 if times of receipt were imported, or else 1."""
        readings = self.readings
        if readings.received is None:
            form, received = ENTRY_FORMAT, b""
        else:
            form, received = ENTRY_FORMAT_WITH_RECEIVED, readings.received.tobytes()
        content = b"".join(
            (
                readings.relative.tobytes(), readings.interrogator.tobytes(),
                received, readings.freeform,
            )
        )  # fmt: skip
        packing = _PLAIN
        if len(content) >= COMPRESS_FROM:
            packing, content = _ZSTD, compress(content, ENTRY_LEVEL)
        count = len(readings.relative)
        header = _ENTRY_HEAD.pack(
            form, packing, self.vault_id, self.salt, self.chunk_key, self.sealed_at, count
        )
        return header + content


def decode_entry(data: bytes) -> Entry:
    """Return the entry that `Entry.encode` wrote.

    Raises:
        FormatError: the bytes are not an entry in a known format.
    """
    if len(data) < _ENTRY_HEAD.size or data[0] not in {ENTRY_FORMAT, ENTRY_FORMAT_WITH_RECEIVED}:
        raise FormatError("the entry has an unknown format")
    form, packing, vault_id, salt, chunk_key, sealed_at, count = _ENTRY_HEAD.unpack_from(data)
    content = data[_ENTRY_HEAD.size :]
    if packing == _ZSTD:
        content = decompress(content, MAX_CONTENT_BYTES)
    elif packing != _PLAIN:
        raise FormatError("the entry has an unknown compression")
    column = 8 * count
    texts = (2 if form == ENTRY_FORMAT else 3) * column
    if len(content) < texts:
        raise FormatError("the entry is truncated")
    freeform = content[texts:]
    readings = ReadingColumns(
        array("q", content[:column]),
        array("q", content[column : 2 * column]),
        freeform,
        None if form == ENTRY_FORMAT else array("q", content[2 * column : texts]),
    )
    # Check here, so that a bad entry becomes a dead letter. Stored in a segment, it would make all
    # readings of the segment unreadable.
    if not freeform.isascii() or count_texts(freeform, count) != (count or 1):
        raise FormatError("the entry's columns differ in length, or its texts are not ASCII")
    readings.has_all_texts = True
    return Entry(vault_id, salt, chunk_key, sealed_at, readings)


class EntryName(NamedTuple):
    """The identity of a sealed entry. Its `number` counts the entries that the session has sealed
    for the shard."""

    shard: int
    session: bytes
    number: int

    def __str__(self) -> str:
        """Return the name as logs and traces show it."""
        return f"{self.shard}-{self.session.hex()}-{self.number}"


def entry_name(shard: int, sealed: bytes) -> EntryName:
    """Return the name of an entry that `Sealer.seal` sealed, without opening the entry."""
    _, _, session, number = _SEAL_HEAD.unpack_from(sealed)
    return EntryName(shard, session, number)


class TransitKeys(Protocol):
    """The keys of entries and orders."""

    @property
    def primary_id(self) -> int:
        """The id of the key that seals new entries and orders."""

    def transit_key(self, key_id: int) -> bytes:
        """Return the key with this id. Raises `DecryptionError` for an unknown id."""


class FollowedKeys(Protocol):
    """A file with transit keys that is reloaded when it changes (`FollowedFile`)."""

    @property
    def loaded(self) -> TransitKeys:
        """The keys as of the last check."""

    @property
    def check_at(self) -> float:
        """When the file must be checked again, by `time.monotonic`."""

    def current(self) -> TransitKeys:
        """Check the file if a check is due, and return its keys."""


class Sealer:
    """Seals the entries of one process. Thread-safe. A forked child begins a new session."""

    def __init__(self, keys: FollowedKeys) -> None:
        self._keys = keys
        self._session: _Session | None = None
        self._abandoned = 0

    def seal(self, shard: int, entry: bytes) -> bytes:
        """Seal an entry for the stream of `shard`, with the session's next number for this
        shard."""
        keys = self._keys
        now = time.monotonic()
        keyring = keys.loaded if now < keys.check_at else keys.current()
        session = self._session
        if session is None or not session.usable(keyring, now):
            session = self._session = _Session(keyring)
        return session.seal(shard, entry)

    def abandon_numbers(self, count: int) -> None:
        """Record that `count` sealed entries will not be in the backlog.

        After `MAX_ABANDONED_NUMBERS` such entries, begin a new session.
        """
        # The ledger stores each gap in the numbers of a session, so a session must not have many
        # gaps. The ledger also stores each session, so one gap must not end a session: a full
        # backlog causes many gaps.
        self._abandoned += count
        if self._abandoned >= MAX_ABANDONED_NUMBERS:
            self.renew()

    def renew(self) -> None:
        """Begin a new session."""
        self._session, self._abandoned = None, 0


class _Session(SecretHolder):
    __slots__ = (
        "_cipher", "_count", "_ends_at", "_id", "_key_id", "_keyring", "_numbers", "_pid",
        "_transit_key",
    )  # fmt: skip

    def __init__(self, keyring: TransitKeys) -> None:
        self._pid = os.getpid()
        self._keyring = keyring
        self._key_id = keyring.primary_id
        self._id = os.urandom(SALT_BYTES)
        self._transit_key = keyring.transit_key(self._key_id)
        self._cipher = _session_cipher(self._transit_key, self._id)
        self._count = itertools.count(2)  # `usable` is not called for the first entry
        self._ends_at = time.monotonic() + SESSION_SECONDS
        self._numbers: dict[int, itertools.count[int]] = {}

    def usable(self, keyring: TransitKeys, now: float) -> bool:
        return (
            (keyring is self._keyring or self._has_primary_key_of(keyring))
            and self._pid == os.getpid()
            and next(self._count) <= ENTRIES_PER_SESSION
            and now < self._ends_at
        )

    def _has_primary_key_of(self, keyring: TransitKeys) -> bool:
        # Compare the keys too: a changed file may hold another key under the same id.
        same = self._key_id == keyring.primary_id
        same = same and self._transit_key == keyring.transit_key(self._key_id)
        if same:
            self._keyring = keyring
        return same

    def seal(self, shard: int, entry: bytes) -> bytes:
        # `setdefault` and `next` are atomic, so threads never get the same number, without a lock.
        numbers = self._numbers.get(shard) or self._numbers.setdefault(shard, itertools.count(1))
        header = _SEAL_HEAD.pack(SEAL_FORMAT, self._key_id, self._id, next(numbers))
        nonce = os.urandom(NONCE_BYTES)
        return header + nonce + self._cipher.encrypt(nonce, entry, header + _SHARD.pack(shard))


class OpenedEntry(SecretHolder):
    """An opened, authentic entry: its session, its number in the session, and its content."""

    __slots__ = ("content", "number", "session")

    def __init__(self, session: bytes, number: int, content: bytes) -> None:
        self.session = session
        self.number = number
        self.content = content


class Opener:
    """Opens sealed entries."""

    CACHED_SESSION_KEYS = 4096

    def __init__(self, keyring: Callable[[], TransitKeys]) -> None:
        self._keyring = keyring
        self._cipher = lru_cache(maxsize=self.CACHED_SESSION_KEYS)(_session_cipher)

    def open(self, shard: int, sealed: bytes) -> OpenedEntry:
        """Open an entry from the stream of `shard`.

        Raises:
            DecryptionError: the bytes were changed or cut, come from another shard's stream, or
                were sealed with an unknown transit key.
        """
        if len(sealed) < _SEAL_HEAD.size or sealed[0] != SEAL_FORMAT:
            raise DecryptionError("an entry has an unknown format")
        header = sealed[: _SEAL_HEAD.size]
        _, key_id, session, number = _SEAL_HEAD.unpack(header)
        # The current keyring must have the key, even if the cache has the cipher: a removed master
        # key opens nothing.
        cipher = self._cipher(self._keyring().transit_key(key_id), session)
        content = _decrypt(cipher, sealed[_SEAL_HEAD.size :], header + _SHARD.pack(shard))
        return OpenedEntry(session, number, content)


def _session_cipher(transit_key: bytes, session: bytes) -> AESGCM:
    return AESGCM(derive(transit_key, salt=session, info=_SESSION))
