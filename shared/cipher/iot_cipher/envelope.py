"""Sealed queue entries: what the API hands the writer through Redis.

    version 1 | key id 4 | session 16 | sequence 8 | nonce 12 | ciphertext and tag

A session is one API process's run; within it every entry of a shard has a number of its own,
1, 2, 3, ... Session and number name an entry for good: however often its bytes are added to the
backlog, a writer that remembers what it has seen stores it once.
"""

import itertools
import os
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from iot_models.errors import DecryptionError

from .aead import SALT_BYTES, decrypt, derive, encrypt
from .secrets import SecretHolder
from .writer_keys import TransitKeys

FORMAT = 1
_HEADER = struct.Struct(">BI16sQ")
_SHARD = struct.Struct(">H")
_SESSION = b"iot-sensor session v1"

MAX_ABANDONED_NUMBERS = 100
"""Entries of a session that were given up, about, until a new one begins."""
ENTRIES_PER_SESSION = 2**32
"""Random nonces stay safe to this many messages under one key."""


class EntryName(NamedTuple):
    """What names a sealed entry for good."""

    shard: int
    session: bytes
    number: int


def entry_name(shard: int, sealed: bytes) -> EntryName:
    """The name of an entry that `Sealer.seal` sealed, read from its head."""
    _, _, session, number = _HEADER.unpack_from(sealed)
    return EntryName(shard, session, number)


class Sealer:
    """Seals one process's entries. Safe to share between threads; starts anew after a fork."""

    def __init__(self, keyring: Callable[[], TransitKeys]) -> None:
        self._keyring = keyring
        self._session: _Session | None = None
        self._given_up = 0

    def seal(self, shard: int, entry: bytes) -> bytes:
        """Seal an entry for the stream of `shard`; each call takes the shard's next number."""
        keyring = self._keyring()
        session = self._session
        if session is None or not session.usable(keyring):
            session = self._session = _Session(keyring)
        return session.seal(shard, entry)

    def abandon_numbers(self, entries: int) -> None:
        """Note that sealed entries were given up, and their numbers with them.

        A session with many such gaps ends, for the ledger keeps each of them. It does not end with
        each, for the ledger keeps each session, and a backlog that is full refuses many requests.
        """
        self._given_up += entries
        if self._given_up >= MAX_ABANDONED_NUMBERS:
            self.renew()

    def renew(self) -> None:
        """Begin a new session."""
        self._session, self._given_up = None, 0


class _Session(SecretHolder):
    __slots__ = ("_count", "_id", "_key", "_key_id", "_keyring", "_numbers", "_pid", "_transit_key")

    def __init__(self, keyring: TransitKeys) -> None:
        self._pid = os.getpid()
        self._keyring = keyring
        self._key_id = keyring.primary_id
        self._id = os.urandom(SALT_BYTES)
        self._transit_key = keyring.transit_key(self._key_id)
        self._key = _session_key(self._transit_key, self._id)
        self._count = itertools.count(2)  # the first entry is sealed without asking
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
        numbers = self._numbers.get(shard) or self._numbers.setdefault(shard, itertools.count(1))
        header = _HEADER.pack(FORMAT, self._key_id, self._id, next(numbers))
        return header + encrypt(self._key, entry, header + _SHARD.pack(shard))


class OpenedEntry(SecretHolder):
    """An entry whose seal was whole: its session, its number in it, and its bytes."""

    __slots__ = ("content", "number", "session")

    def __init__(self, session: bytes, number: int, content: bytes) -> None:
        self.session = session
        self.number = number
        self.content = content


class Opener:
    """Opens sealed entries."""

    SESSIONS_REMEMBERED = 4096

    def __init__(self, keyring: Callable[[], TransitKeys]) -> None:
        self._keyring = keyring
        self._session_key = lru_cache(maxsize=self.SESSIONS_REMEMBERED)(_session_key)

    def open(self, shard: int, sealed: bytes) -> OpenedEntry:
        """The entry that was sealed for this shard.

        Raises:
            DecryptionError: the bytes were changed or cut, come from another shard's stream, or
                were sealed with a master key that is not in the keyring.
        """
        if len(sealed) < _HEADER.size or sealed[0] != FORMAT:
            raise DecryptionError("a queue entry is of an unknown format")
        header = sealed[: _HEADER.size]
        _, key_id, session, number = _HEADER.unpack(header)
        # By the keyring as it is now: a retired key opens nothing, remembered session or not.
        key = self._session_key(self._keyring().transit_key(key_id), session)
        content = decrypt(key, sealed[_HEADER.size :], header + _SHARD.pack(shard))
        return OpenedEntry(session, number, content)


def _session_key(transit_key: bytes, session: bytes) -> bytes:
    return derive(transit_key, salt=session, info=_SESSION)
