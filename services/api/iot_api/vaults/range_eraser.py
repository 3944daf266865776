"""Erase the readings of a window of relative time from a vault."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from iot_api.limits.clients import Client
from iot_cipher.encryption import (
    SALT_BYTES,
    OpenVault,
    SealedSegment,
    decrypt_segment,
    encrypt_segment,
)
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import DecryptionError, FormatError, NotFoundError, UnavailableError
from iot_models.segment import SegmentColumns, decode_segment
from iot_models.segment_encoding import encode_merged
from iot_stores import segment_erasure
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.held_entries import HeldEntries
from iot_stores.history import note_damaged
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import Pool
from iot_stores.segment_erasure import NamedSegment

from .opening import Vaults

WAIT_SECONDS = 10.0
"""Longest wait until all readings acknowledged before the request are stored."""
_PAUSE_SECONDS = 0.05
_BATCH = 200
"""Maximum number of segments that one transaction deletes."""
_MAX_PASSES = 10


class RangeEraser:
    """Erases windows of relative time, one request at a time in a process.

    A request erases all readings of the window that were acknowledged before the request, and no
    reading outside of the window. First, it waits until the acknowledged readings have left the
    backlog.

    Segments within the window are deleted. A segment with readings inside and outside of the window
    is opened and replaced, in one transaction, by a segment with the readings outside. If
    compaction replaces a segment meanwhile, the window is searched again. If the process is killed,
    a part of the window may be erased; the request can be repeated.
    """

    def __init__(
        self,
        vaults: Vaults,
        backlog: Backlog,
        held: HeldEntries,
        hot_window: HotWindow,
        pool: Pool,
        audit: AuditLog,
        require_safe: Callable[[], None],
    ) -> None:
        """`require_safe` raises unless Redis belongs to this installation."""
        self._vaults = vaults
        self._backlog = backlog
        self._held = held
        self._hot_window = hot_window
        self._pool = pool
        self._audit = audit
        self._require_safe = require_safe
        self._lock = threading.Lock()
        """Held by the one request that erases, to bound the memory for opened segments."""

    def erase(self, password: bytes, low: int, high: int, client: Client) -> int:
        """Erase the readings with a relative timestamp from `low` to `high`; return their number.

        `low` and `high` are included. An unknown password counts as a guess.

        Raises:
            NotFoundError: there is no vault under the password, or the password was changed before
                the erasure began.
            TooManyRequestsError: like `Vaults.find`.
            UnavailableError: readings acknowledged before the request are not stored in time, and
                nothing was erased; or compaction kept replacing segments, and a part was erased.
            DecryptionError, FormatError: a segment that is only partly within the window is
                damaged. The segment stays, and a part of the window may be erased.
            RedisError, psycopg.Error: a store is away. A part may be erased already; repeat the
                call.
        """
        self._require_safe()
        vault = self._find(password, client)
        self._wait_until_stored(vault.vault_id)
        with self._lock:
            # The password may have been changed during the waits.
            if self._find(password, client).vault_id != vault.vault_id:
                raise _not_found()
            event = audit_event(
                AuditKind.RANGE_ERASED,
                vault=str(vault.vault_id), start=low, end=high, **client.fields,
            )  # fmt: skip
            with self._pool.connection() as connection:
                self._audit.append(connection, event)
            # Hide the vault first: this process may be killed before it evicts erased segments.
            self._hot_window.hide(vault.vault_id)
            return self._erase(vault, low, high)

    def _find(self, password: bytes, client: Client) -> OpenVault:
        vault = self._vaults.find(password, client)
        if vault is None:
            raise _not_found()
        return vault

    def _wait_until_stored(self, vault_id: uuid.UUID) -> None:
        """Wait until every entry that is now in the backlog has left it.

        Raises:
            UnavailableError: the wait takes too long, or entries of the vault are or were held.
        """
        until = time.monotonic() + WAIT_SECONDS
        created_at = self._row_created_at(vault_id)
        # Wait twice: a drain that read before the vault had a row may hold entries of the vault
        # during the first wait. If they are released between two checks, they are in the backlog
        # again, behind the end of the first wait. Later drains see the row and store them.
        for _ in range(2):
            self._refuse_held(vault_id)
            self._wait_until_removed(vault_id, until)
        self._refuse_held(vault_id)
        # Entries are held only while Postgres lacks the row, and may be released between two
        # checks. A restored row has another time of creation.
        if self._row_created_at(vault_id) != created_at:
            raise _held_error()

    def _wait_until_removed(self, vault_id: uuid.UUID, until: float) -> None:
        ends = self._backlog.ends()
        while not self._backlog.all_removed(ends):
            if time.monotonic() >= until:
                raise UnavailableError(
                    "readings acknowledged before this request are not stored yet, so nothing was "
                    "erased; try again",
                    retry_after=10,
                )
            time.sleep(_PAUSE_SECONDS)
            # Held entries may be released to the backlog before the wait ends.
            self._refuse_held(vault_id)

    def _row_created_at(self, vault_id: uuid.UUID) -> datetime:
        """Return when the row of the vault was created.

        If Postgres lacks the row, raise `UnavailableError`; the next use of the vault restores the
        row.
        """
        with self._pool.connection() as connection:
            created_at = segment_erasure.vault_created_at(connection, vault_id)
        if created_at is None:
            self._vaults.cache.mark_missing(vault_id)
            raise _held_error()
        return created_at

    def _refuse_held(self, vault_id: uuid.UUID) -> None:
        if vault_id in self._held.vaults():
            raise _held_error()

    def _erase(self, vault: OpenVault, low: int, high: int) -> int:
        erased = 0
        unchanged: set[tuple[int, int, bytes]] = set()
        """Segments that were opened, and have no reading of the window."""
        for _ in range(_MAX_PASSES):
            with self._pool.connection() as connection:
                found = segment_erasure.find(connection, vault.vault_id, low, high)
            whole = [each for each in found if _is_within(each, low, high)]
            count, is_complete = self._erase_whole(vault.vault_id, whole)
            erased += count
            for segment in found:
                if segment.name in unchanged or _is_within(segment, low, high):
                    continue
                removed = self._erase_part(vault, segment, low, high)
                if removed == 0:
                    unchanged.add(segment.name)
                erased += removed or 0
                is_complete = is_complete and removed is not None
            if is_complete:
                return erased
        raise UnavailableError(
            "segments are being merged, so only a part of the readings was erased; try again"
        )

    def _erase_whole(
        self, vault_id: uuid.UUID, segments: Sequence[NamedSegment]
    ) -> tuple[int, bool]:
        """Delete segments. Return how many readings they had, and whether all still existed."""
        erased, is_complete = 0, True
        for start in range(0, len(segments), _BATCH):
            batch = segments[start : start + _BATCH]
            with self._pool.connection() as connection:
                deleted, readings = segment_erasure.erase(connection, vault_id, batch)
            self._hot_window.evict(vault_id, [each.bounds.first_id for each in batch])
            erased += readings
            is_complete = is_complete and deleted == len(batch)
        return erased, is_complete

    def _erase_part(
        self, vault: OpenVault, segment: NamedSegment, low: int, high: int
    ) -> int | None:
        """Erase the readings of the window from a segment, and return their number.

        Return None if the segment was replaced meanwhile.
        """
        time.sleep(0)  # let other greenlets run
        with self._pool.connection() as connection:
            payload = segment_erasure.fetch(connection, vault.vault_id, segment)
        if payload is None:
            return None
        columns = _open(vault, segment, payload)
        del payload
        kept = [not low <= relative <= high for relative in columns.relative]
        removed = len(kept) - sum(kept)
        if removed == 0:
            return 0
        if removed == len(kept):
            count, is_complete = self._erase_whole(vault.vault_id, [segment])
            return count if is_complete else None
        replacement = _seal(vault, columns.selected(kept), segment.bounds.shard)
        with self._pool.connection() as connection:
            is_replaced = segment_erasure.replace(connection, segment, replacement)
        self._hot_window.evict(vault.vault_id, [segment.bounds.first_id])
        return removed if is_replaced else None


def _not_found() -> NotFoundError:
    return NotFoundError("db_password: no vault has this password", field="db_password")


def _held_error() -> UnavailableError:
    return UnavailableError(
        "readings of the vault are held until Postgres has the vault's record again, so nothing "
        "was erased; try again",
        retry_after=10,
    )


def _is_within(segment: NamedSegment, low: int, high: int) -> bool:
    return low <= segment.bounds.relative_min and segment.bounds.relative_max <= high


def _open(vault: OpenVault, segment: NamedSegment, payload: bytes | bytearray) -> SegmentColumns:
    try:
        return decode_segment(segment.bounds, decrypt_segment(vault, segment.bounds, payload))
    except (DecryptionError, FormatError):
        note_damaged(vault.vault_id, segment.bounds)
        raise


def _seal(vault: OpenVault, columns: SegmentColumns, shard: int) -> SealedSegment:
    salt = os.urandom(SALT_BYTES)
    bounds, content = encode_merged(columns, shard)
    payload = encrypt_segment(vault.vault_id, salt, vault.chunk_key(salt), bounds, content)
    return SealedSegment(vault.vault_id, bounds, payload)
