"""Restore vault records that Postgres lost, for example by a restore from backup or a failover."""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from redis.exceptions import RedisError

from iot_cipher.keyring import Keyring
from iot_cipher.vault import VaultRecord, is_authentic, is_rewrapped
from iot_models import metrics
from iot_stores.held_entries import HeldEntries
from iot_stores.password_changes import SETTLING_SECONDS
from iot_stores.store_states import POSTGRES_UNAVAILABLE, report
from iot_stores.vault_records import PolicyChangedError, VaultErasedError, VaultRecords

from .cache import VaultCache

PAUSE_SECONDS = 1.0
"""Shortest time between two calls of `VaultRestorer.check`."""
IDLE_SECONDS = 2.0
"""If no request asks for a check within this time, the restorer's thread calls
`VaultRestorer.check` nevertheless: writers may hold entries of vaults that no request uses."""
SCAN_SECONDS = 10.0
"""Shortest time between two searches of all vault records in Redis for the vaults of held
entries."""
KEEP_SECONDS = 60.0
"""While Postgres is away, the expiry of records in Redis is extended at this interval."""
CLEAN_SECONDS = 10.0
"""Time between two searches for erasures that another process did not finish."""
AWAY_SECONDS = 5.0
"""After an error of a store, `VaultRestorer.confirm` compares no record with Postgres for this
long."""
GIVEN_UP_SECONDS = 2 * SETTLING_SECONDS
"""If Postgres still has a record this long after the record was hidden in Redis, the change of
password or the erasure was not made. Twice `SETTLING_SECONDS`: Postgres is read before this time is
checked, and `SETTLING_SECONDS` must have passed before the read."""
MAX_COMPARED = 1000
"""Maximum number of records under old master keys that one call of
`VaultRestorer.master_keys_in_use` queues for a comparison with Postgres."""
_CLOSE_SECONDS = 2.0

_log = logging.getLogger(__name__)


class VaultRestorer:
    """A thread that compares the records of vaults in use with Postgres, and restores missing ones.

    A vault is restored from a record that was opened with its password. Or it is restored from a
    record in Redis that was made with this keyring and is unchanged (`is_authentic`). The data key
    stays the same, so the readings stay readable. While a vault is missing, writers hold its
    entries (`HeldEntries`). The entries are released as soon as the vault is restored.
    """

    def __init__(
        self,
        records: VaultRecords,
        cache: VaultCache,
        keyring: Callable[[], Keyring],
        held: HeldEntries,
        release: Callable[[], object],
        clean: Callable[[], object] = lambda: None,
    ) -> None:
        """`release` queues the job that releases held entries. `clean` removes the records of
        erased vaults from Redis.
        """
        self.records = records
        self.cache = cache
        self._keyring = keyring
        self._held = held
        self._release = release
        self._clean = clean
        self._clean_from = 0.0
        self._away_until = 0.0
        self._scan_from = 0.0
        self._keep_from = 0.0
        self._watched: dict[uuid.UUID, VaultRecord] = {}
        self._logged: set[uuid.UUID] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()

    @property
    def is_away(self) -> bool:
        """Whether `confirm` can't compare records now, because a store was away just before."""
        return time.monotonic() < self._away_until

    def confirm(self, record: VaultRecord) -> VaultRecord:
        """Compare `record` with Postgres, and return the record to use.

        Return the record that Postgres has for the vault, or else the record that Postgres has for
        the lookup of `record`. If Postgres has neither, store and return `record`. While a store is
        away, return `record`; the restorer's thread compares it with Postgres later.

        Raises:
            PolicyChangedError: Postgres lacks the vault, and `record` has a format or scrypt cost
                that new records must not have.
            VaultErasedError: the vault was erased.
        """
        if not self.is_away:
            try:
                return self._restore(record)
            except (RedisError, *POSTGRES_UNAVAILABLE) as error:
                self._away_until = time.monotonic() + AWAY_SECONDS
                report(_log, "a vault could not be compared with Postgres", error)
        self.watch(record)
        return record

    def find_renewed(self, lookups: Sequence[bytes], known: VaultRecord) -> VaultRecord | None:
        """Read the record of an open vault again, to renew the vault.

        `known` is the record from which the vault was opened. `lookups` are the lookups under which
        the password may have a vault; an earlier lookup takes precedence over a later one.

        Return the record in Redis if it is `known` or a rewrap of `known`. Also return it if it
        belongs to another vault: the password then has that vault, not the vault of `known`. Any
        other record in Redis may be out of date. In that case, or if Redis has no record or is
        away, return the record in Postgres; None if Postgres has no record.

        Raises:
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        try:
            record = self.records.find_cached(lookups)
        except RedisError as error:
            report(_log, "vaults are looked up in Postgres", error)
            record = None
        # The record of another vault is not out of date: an earlier lookup takes precedence over
        # the lookup of `known`.
        if record is not None and (
            record == known or record.vault_id != known.vault_id or self.is_rewrapped(known, record)
        ):
            return record
        return self.records.find(lookups).record

    def is_rewrapped(self, old: VaultRecord, new: VaultRecord) -> bool:
        """Return whether `iot-sensor keys rewrap` made the new record from the old one."""
        return is_rewrapped(self._keyring(), old, new)

    def start(self) -> None:
        """Start the thread, if it does not run."""
        if self._thread is None:
            self._wake_up()

    def watch(self, record: VaultRecord) -> None:
        """Make the thread compare a record with Postgres soon."""
        with self._lock:
            self._watched[record.vault_id] = record
        self._wake_up()

    def forget(self, vault_id: uuid.UUID, lookup: bytes) -> None:
        """Stop watching the record of a vault, unless the record has this lookup.

        After a change of the password, `lookup` is the lookup of the new password, so that the new
        record stays watched. For an erasure, it is `ERASING` or `ERASED`, which no record has.
        """
        with self._lock:
            watched = self._watched.get(vault_id)
            if watched is not None and watched.lookup != lookup:
                del self._watched[vault_id]

    def entries_are_held(self) -> None:
        """Make the thread search soon for the vaults of held entries."""
        if not self._wake.is_set():
            self._wake_up()

    def master_keys_in_use(self) -> Counter[int]:
        """Return, for each master key id, the number of open vaults whose record is under the key.

        Also make the restorer's thread compare the records under old master keys with Postgres
        soon. If a rewrap has replaced a record in Postgres, the open vault gets the new record. So
        an old key goes out of use within seconds of a rewrap.
        """
        records, primary = self.cache.records(), self._keyring().primary_id
        old = [record for record in records if record.master_key_id != primary]
        if old:
            with self._lock:
                for record in old[:MAX_COMPARED]:
                    self._watched.setdefault(record.vault_id, record)
            self._wake_up()
        return Counter(record.master_key_id for record in records)

    def close(self) -> None:
        """Stop the thread."""
        self._closing.set()
        self._wake.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(_CLOSE_SECONDS)

    def check(self) -> None:
        """Restore each watched record that is missing in Postgres.

        Then restore the vaults of held entries, and remove the records of erased vaults from Redis.

        Raises:
            RedisError, psycopg.Error: a store is away. The next check tries again.
        """
        with self._lock:
            watched, self._watched = self._watched, {}
        try:
            changed = self.records.find_changed(watched.values())
            # Without `show`, a record whose change of password or erasure failed would stay hidden
            # in Redis for a day. If Postgres lost the record then, the next PUT would create a new
            # vault.
            unchanged = watched.keys() - {record.vault_id for record, _ in changed}
            self.records.show(map(watched.__getitem__, unchanged), hidden_for=GIVEN_UP_SECONDS)
            for record in self._adopt(changed):
                self._restore_without_password(record)
        except (RedisError, *POSTGRES_UNAVAILABLE):
            with self._lock:
                self._watched = watched | self._watched
            if time.monotonic() >= self._keep_from:
                self._keep_from = time.monotonic() + KEEP_SECONDS
                self.records.extend_expiry(watched.values())
            raise
        self._restore_held_vaults()
        if time.monotonic() >= self._clean_from:
            self._clean_from = time.monotonic() + CLEAN_SECONDS
            self._clean()

    def _restore_held_vaults(self) -> None:
        held = self._held.vaults().keys()
        if not held:
            return
        known = {record.vault_id: record for record in self.cache.records()}
        if held - known.keys() and time.monotonic() >= self._scan_from:
            self._scan_from = time.monotonic() + SCAN_SECONDS
            for record in self.records.scan_cached():
                if record.vault_id in held - known.keys() and is_authentic(self._keyring(), record):
                    known[record.vault_id] = record
        found = held & known.keys()
        self.records.extend_expiry([known[vault_id] for vault_id in found])
        for vault_id in found:
            self._restore_without_password(known[vault_id])
        if found:
            self._release()

    def _restore_without_password(self, record: VaultRecord) -> None:
        try:
            self._restore(record)
        except PolicyChangedError:
            self.cache.mark_missing(record.vault_id)
        except VaultErasedError:
            self.drop_erased(record)

    def drop_erased(self, record: VaultRecord) -> None:
        """Drop an erased vault from the cache, and its record from Redis.

        Needed if the announcement of the erasure was lost, for example in a failover.
        """
        self.cache.forget_vault(record.vault_id)
        self.records.hide(record)

    def _restore(self, record: VaultRecord) -> VaultRecord:
        standing = self.records.restore(record)
        if standing != record and self._adopt([(record, standing)]):
            self.cache.forget_vault(record.vault_id)
        if standing.vault_id != record.vault_id and record.vault_id not in self._logged:
            self._logged.add(record.vault_id)
            metrics.counter("iot_vaults_replaced_total").inc()
            _log.error(
                "Postgres lost vault %s; vault %s has the same password and is used from now on. "
                "The record and the held readings of the lost vault stay in Redis; see "
                "docs/reliability.md, After a restore",
                record.vault_id,
                standing.vault_id,
            )
        return standing

    def _adopt(
        self, changes: Iterable[tuple[VaultRecord, VaultRecord | None]]
    ) -> list[VaultRecord]:
        """Give open vaults their rewrapped records. Return the old records that were not rewrapped.

        Each change is an old record, and the record in Postgres (None if Postgres has no record of
        the vault). The vaults stay open, because opening them again would cost a scrypt each.
        """
        rewrapped, others = [], []
        for record, stored in changes:
            if stored is not None and self.is_rewrapped(record, stored):
                rewrapped.append((record, stored))
            else:
                others.append(record)
            time.sleep(0)  # a thousand decryptions must not delay requests
        if rewrapped:
            self.cache.replace_records(rewrapped)
        return others

    def _wake_up(self) -> None:
        self._wake.set()
        with self._lock:
            if self._closing.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._run, name="vault-restorer", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(IDLE_SECONDS)
            self._wake.clear()
            if self._closing.is_set():
                break
            try:
                self.check()
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                report(_log, "vaults are not compared with Postgres", error)
            self._closing.wait(PAUSE_SECONDS)
