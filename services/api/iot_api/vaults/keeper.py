"""Keeps the vaults in use in Postgres: puts back what a restore or a failover took away."""

import logging
import threading
import time
import uuid
from collections.abc import Callable

from redis.exceptions import RedisError

from iot_cipher.keyring import Keyring
from iot_cipher.vault import VaultRecord, is_authentic
from iot_models import metrics
from iot_stores.held_entries import HeldEntries
from iot_stores.postgres import AWAY
from iot_stores.store_states import report
from iot_stores.vault_records import PolicyChangedError, VaultRecords

from .cache import VaultCache

PAUSE_SECONDS = 1.0
"""Shortest time between two looks."""
IDLE_SECONDS = 2.0
"""Longest time between two looks: entries may be held of vaults that nobody sends to."""
SCAN_SECONDS = 10.0
"""Shortest time between two searches of all records in Redis."""
KEEP_SECONDS = 60.0
"""While Postgres is away, records are kept in Redis this often: there may be ten thousand."""
AWAY_SECONDS = 5.0
"""A Postgres that is away is not asked again by those who open vaults for so long."""
_CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class VaultKeeper:
    """Compares the records of vaults in use with Postgres, and puts back those that are missing.

    A vault that Postgres lacks is put back from a record that was opened with its password, or from
    one in Redis that is authentic. Its data key stays the same, so its readings stay readable.
    While a vault is missing, writers hold its entries (`HeldEntries`); they are released at once.
    """

    def __init__(
        self,
        records: VaultRecords,
        cache: VaultCache,
        keyring: Callable[[], Keyring],
        held: HeldEntries,
        release: Callable[[], object],
    ) -> None:
        """`release` lets a writer look for held entries whose vaults are back."""
        self.records = records
        self.cache = cache
        self._keyring = keyring
        self._held = held
        self._release = release
        self._away_until = 0.0
        self._scan_from = 0.0
        self._keep_from = 0.0
        self._watched: dict[uuid.UUID, VaultRecord] = {}
        self._told: set[uuid.UUID] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()

    def confirm(self, record: VaultRecord) -> VaultRecord:
        """The record of a vault that stands in Postgres (`VaultRecords.put_back`). While Postgres
        is away it is `record`, which is compared later.

        Raises:
            PolicyChangedError: the vault is missing and must be wrapped anew to be put back.
        """
        if time.monotonic() >= self._away_until:
            try:
                return self._put_back(record)
            except (RedisError, *AWAY) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                report(_log, "whether Postgres has a vault is not known", error)
        self.watch(record)
        return record

    def start(self) -> None:
        """Begin to look for held entries."""
        if self._thread is None:
            self._wake_up()

    def watch(self, record: VaultRecord) -> None:
        """Compare a record with Postgres soon. Costs nothing."""
        with self._lock:
            self._watched[record.vault_id] = record
        self._wake_up()

    def entries_are_held(self) -> None:
        """Look soon whether a record of the vaults whose entries are held is at hand. Costs
        nothing.
        """
        if not self._wake.is_set():
            self._wake_up()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_SECONDS)

    def look(self) -> None:
        """Compare the records that are watched, then look for those of held entries.

        Raises:
            RedisError, psycopg.Error: a part is away; the records are compared the next time.
        """
        with self._lock:
            watched, self._watched = self._watched, {}
        try:
            for record in self.records.missing(watched.values()):
                self._put_back_without_password(record)
        except (RedisError, *AWAY):
            with self._lock:
                self._watched = watched | self._watched
            if time.monotonic() >= self._keep_from:
                self._keep_from = time.monotonic() + KEEP_SECONDS
                self.records.keep(watched.values())
            raise
        self._look_for_held()

    def _look_for_held(self) -> None:
        held = self._held.vaults().keys()
        if not held:
            return
        known = {record.vault_id: record for record in self.cache.records()}
        if held - known.keys() and time.monotonic() >= self._scan_from:
            self._scan_from = time.monotonic() + SCAN_SECONDS
            for record in self.records.all_cached():
                if record.vault_id in held - known.keys() and is_authentic(self._keyring(), record):
                    known[record.vault_id] = record
        found = held & known.keys()
        self.records.keep([known[vault_id] for vault_id in found])
        for vault_id in found:
            self._put_back_without_password(known[vault_id])
        if found:
            self._release()

    def _put_back_without_password(self, record: VaultRecord) -> None:
        try:
            self._put_back(record)
        except PolicyChangedError:
            self.cache.mark_missing(record.vault_id)

    def _put_back(self, record: VaultRecord) -> VaultRecord:
        standing = self.records.put_back(record)
        if standing != record:
            self.cache.forget_vault(record.vault_id)
        if standing.vault_id != record.vault_id and record.vault_id not in self._told:
            self._told.add(record.vault_id)
            metrics.counter("iot_vaults_replaced_total").inc()
            _log.error(
                "Postgres lost vault %s, and has vault %s of the same password in its place, which "
                "is used from now on. Readings of the lost vault that wait stay held in Redis, and "
                "so does its record; see docs/reliability.md, After a restore",
                record.vault_id,
                standing.vault_id,
            )
        return standing

    def _wake_up(self) -> None:
        self._wake.set()
        with self._lock:
            if self._closing.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="vault-keeper", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            if self._closing.is_set():
                break
            try:
                self.look()
            except (RedisError, *AWAY) as error:
                report(_log, "vaults are not compared with Postgres", error)
            self._closing.wait(PAUSE_SECONDS)
