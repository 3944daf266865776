"""Sealed entries, which the API adds to the backlog and writers open.

    version 1 | key id 4 | session 16 | number 8 | nonce 12 | ciphertext and tag

(The figures are lengths in bytes.) A session belongs to one run of an API process. It numbers the
entries of each shard 1, 2, 3, ... Shard, session and number identify an entry: if its bytes are in
the backlog more than once, the ledger lets writers store it once.
"""

import itertools
import os
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from iot_models.errors import DecryptionError

from .encryption import SALT_BYTES, decrypt, derive, encrypt
from .secrets import SecretHolder
from .writer_keys import TransitKeys

FORMAT = 1
_HEADER = struct.Struct(">BI16sQ")
_SHARD = struct.Struct(">H")
_SESSION = b"iot-sensor session v1"

MAX_ABANDONED_NUMBERS = 100
"""Number of abandoned entries after which a session ends."""
ENTRIES_PER_SESSION = 2**32
"""Maximum number of messages under one key with random nonces (NIST SP 800-38D, 8.3)."""


class EntryName(NamedTuple):
    """The identity of a sealed entry."""

    shard: int
    session: bytes
    number: int


def entry_name(shard: int, sealed: bytes) -> EntryName:
    """Return the name of an entry that `Sealer.seal` sealed, without opening the entry."""
    _, _, session, number = _HEADER.unpack_from(sealed)
    return EntryName(shard, session, number)


class Sealer:
    """The sealing of the entries of one process. Thread-safe. A fork begins a new session."""

    def __init__(self, keyring: Callable[[], TransitKeys]) -> None:
        self._keyring = keyring
        self._session: _Session | None = None
        self._abandoned = 0

    def seal(self, shard: int, entry: bytes) -> bytes:
        """Seal an entry for the stream of `shard`. Each call uses the shard's next number."""
        keyring = self._keyring()
        session = self._session
        if session is None or not session.usable(keyring):
            session = self._session = _Session(keyring)
        return session.seal(shard, entry)

    def abandon_numbers(self, count: int) -> None:
        """Record that `count` sealed entries will not be in the backlog.

        Their numbers are gaps in the session, and the ledger stores each gap. So a session with
        many gaps ends. It does not end with the first gap, because the ledger also stores each
        session, and a full backlog refuses many requests.
        """
        self._abandoned += count
        if self._abandoned >= MAX_ABANDONED_NUMBERS:
            self.renew()

    def renew(self) -> None:
        """Begin a new session."""
        self._session, self._abandoned = None, 0


class _Session(SecretHolder):
    __slots__ = ("_count", "_id", "_key", "_key_id", "_keyring", "_numbers", "_pid", "_transit_key")

    def __init__(self, keyring: TransitKeys) -> None:
        self._pid = os.getpid()
        self._keyring = keyring
        self._key_id = keyring.primary_id
        self._id = os.urandom(SALT_BYTES)
        self._transit_key = keyring.transit_key(self._key_id)
        self._key = _session_key(self._transit_key, self._id)
        self._count = itertools.count(2)  # `usable` is not called for the first entry
        self._numbers: dict[int, itertools.count[int]] = {}

    def usable(self, keyring: TransitKeys) -> bool:
        return (
            (keyring is self._keyring or self._has_primary_key_of(keyring))
            and self._pid == os.getpid()
            and next(self._count) <= ENTRIES_PER_SESSION
        )

    def _has_primary_key_of(self, keyring: TransitKeys) -> bool:
        # Ids and keys: a changed file may hold another key under the same id.
        same = self._key_id == keyring.primary_id
        same = same and self._transit_key == keyring.transit_key(self._key_id)
        if same:
            self._keyring = keyring
        return same

    def seal(self, shard: int, entry: bytes) -> bytes:
        # `setdefault` and `next` are atomic, so threads never get the same number, without a lock.
        numbers = self._numbers.get(shard) or self._numbers.setdefault(shard, itertools.count(1))
        header = _HEADER.pack(FORMAT, self._key_id, self._id, next(numbers))
        return header + encrypt(self._key, entry, header + _SHARD.pack(shard))


class OpenedEntry(SecretHolder):
    """An entry that was authentic: its session, its number in the session, and its content."""

    __slots__ = ("content", "number", "session")

    def __init__(self, session: bytes, number: int, content: bytes) -> None:
        self.session = session
        self.number = number
        self.content = content


class Opener:
    """The opening of sealed entries."""

    CACHED_SESSION_KEYS = 4096

    def __init__(self, keyring: Callable[[], TransitKeys]) -> None:
        self._keyring = keyring
        self._session_key = lru_cache(maxsize=self.CACHED_SESSION_KEYS)(_session_key)

    def open(self, shard: int, sealed: bytes) -> OpenedEntry:
        """Open an entry from the stream of `shard`.

        Raises:
            DecryptionError: the bytes were changed or cut, come from another shard's stream, or
                were sealed with a master key that is not in the keyring.
        """
        if len(sealed) < _HEADER.size or sealed[0] != FORMAT:
            raise DecryptionError("an entry has an unknown format")
        header = sealed[: _HEADER.size]
        _, key_id, session, number = _HEADER.unpack(header)
        # The current keyring is part of the cache key, so a removed master key opens nothing.
        key = self._session_key(self._keyring().transit_key(key_id), session)
        content = decrypt(key, sealed[_HEADER.size :], header + _SHARD.pack(shard))
        return OpenedEntry(session, number, content)


def _session_key(transit_key: bytes, session: bytes) -> bytes:
    return derive(transit_key, salt=session, info=_SESSION)
