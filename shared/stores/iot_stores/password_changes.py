"""Changes of passwords and erasures of vaults, announced in Redis to all API processes."""

import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from redis import Redis
from redis.exceptions import ResponseError

from iot_models.names import KeyNames

from .cached_records import hide_records, show_records
from .key_deletion import delete_key
from .redis_client import milliseconds
from .store_states import is_wrong_type, report
from .stream_entries import StreamItem

MAX_ANNOUNCED = 1000
"""Maximum length of the stream. A process that has missed more changes compares its vaults with
Postgres."""
SETTLING_SECONDS = 60
"""An announced change has settled after this time: it was made or given up. The time is longer than
a request takes from reading a record to opening the vault."""
BEGINNING = "-"
"""The position before all announcements."""
ERASING, ERASED = b"", b"erased"
"""Values in place of a new lookup: the vault is about to be erased, or is erased."""
_VAULT, _LOOKUP = b"vault", b"lookup"

_log = logging.getLogger(__name__)


class PasswordChange(NamedTuple):
    """A change of a vault's password, or the erasure of a vault, as it is announced."""

    vault_id: uuid.UUID
    lookup: bytes
    """The lookup of the new password; `ERASING` or `ERASED` for an erasure."""


class Announced(NamedTuple):
    """The changes that a process has not seen yet."""

    changes: list[PasswordChange]
    last: str
    """Position after which to read next."""
    complete: bool
    """Whether `changes` has all changes since the position that was read last."""


class PasswordChanges:
    """The stream of the latest changes of passwords, in Redis."""

    def __init__(self, client: "Redis", names: KeyNames) -> None:
        self._client = client
        self._names = names

    def announce(self, change: PasswordChange, old_lookups: Sequence[bytes]) -> None:
        """Announce a change of a vault's password, or the erasure of a vault.

        Call this before the password is changed; after the change, call `finish`. For an erasure,
        call this before and after the vault is erased.

        Also remove the vault's records under `old_lookups` from Redis. Hide records that a process
        caches later, because it read Postgres before the change (`hide_records`).

        Raises:
            RedisError: the change may have been announced or not.
        """
        hide_records(self._client, self._names, change.vault_id, old_lookups)
        self._client.xadd(
            self._names.password_changes,
            {_VAULT: change.vault_id.bytes, _LOOKUP: change.lookup},
            maxlen=MAX_ANNOUNCED,
            approximate=False,
        )

    def finish(self, change: PasswordChange, old_lookups: Sequence[bytes]) -> None:
        """Announce a change of password again, after it was made.

        A failover of Redis may have lost the first announcement. Also end the hiding of records
        under the new lookup (`hide_records`): an earlier change away from the same password may
        have hidden them.

        Raises:
            RedisError: Redis can't serve.
        """
        show_records(self._client, self._names, {change.lookup: change.vault_id})
        self.announce(change, old_lookups)

    def read(self, last: str | None) -> Announced:
        """Return the changes announced after the position `last`.

        If `last` is None, return only the changes that may not have settled: a process that has
        just started has read its records after all older changes. If Redis has lost the position,
        return all changes in the stream.

        Raises:
            RedisError: Redis is away.
        """
        entries = self._entries(last or BEGINNING)
        complete = last in {None, BEGINNING} or (bool(entries) and entries[0][0] == last)
        if not complete:
            # Redis trimmed the entry at `last`, or lost it in a failover.
            entries = fresh = self._entries(BEGINNING)
        elif last is None:
            settled = milliseconds(self._client.time()) - SETTLING_SECONDS * 1000
            fresh = [entry for entry in entries if int(entry[0].partition("-")[0]) > settled]
        else:
            fresh = [entry for entry in entries if entry[0] != last]
        position = entries[-1][0] if entries else BEGINNING
        changes = [change for _, fields in fresh if (change := _decode(fields)) is not None]
        return Announced(changes, position, complete)

    def _entries(self, last: str) -> list[tuple[str, Mapping[bytes, bytes]]]:
        name = self._names.password_changes
        try:
            found = cast("list[StreamItem]", self._client.xrange(name, min=last))
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            report(_log, "the changes of passwords that Redis held are lost", error)
            delete_key(self._client, name)
            found = []
        return [(number.decode(), fields) for number, fields in found]


def _decode(fields: Mapping[bytes, bytes]) -> PasswordChange | None:
    """Decode an item of the stream. Return None if another version or program wrote the item."""
    try:
        return PasswordChange(uuid.UUID(bytes=fields[_VAULT]), fields[_LOOKUP])
    except (KeyError, ValueError):
        return None
