"""The steps of a rotation of master keys. A step that was killed can be repeated."""

import time
from collections.abc import Callable
from functools import partial

from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import KeyId, Keyring
from iot_cipher.keyring_changes import (
    require_removable,
    with_primary,
    without_key,
)
from iot_cipher.writer_keys import fingerprints
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError
from iot_stores.audit import AuditLog
from iot_stores.audit_chain import current_head
from iot_stores.audit_reseal import count_readable, renew_links, reseal_audit
from iot_stores.key_uses import count_uses, count_vaults
from iot_stores.loaded_keys import LoadedKeys, read_reports, silent_writers
from iot_stores.postgres import Connection
from iot_stores.rewrap import Rewrap, try_lock

from .stored_keyring import StoredKeyring
from .stores import CommandStores

LOCK_SECONDS = 10.0
_POLL_SECONDS = 1.0
_SAY_SECONDS = 10.0
"""Time between two lines that say what the command waits for."""
_MAX_SHOWN = 10


class KeyRotation:
    """The steps of a rotation: `add`, `promote`, `rewrap` and `retire`. `rotate` runs all of them.

    `rewrap` encrypts the outer wraps of vaults and the audit log again. The other steps change the
    keyring.
    """

    def __init__(
        self,
        stores: CommandStores,
        connection: Connection,
        stored: StoredKeyring,
        *,
        wait_seconds: float,
        settle_seconds: float,
        stopped: bool,
    ) -> None:
        self.stores = stores
        self.connection = connection
        self._stored = stored
        self._wait_seconds = wait_seconds
        self._settle_seconds = settle_seconds
        self._stopped = stopped
        self._audit_log = AuditLog(self.keyring)

    def keyring(self) -> Keyring:
        """Return the keyring as it is now."""
        return self._stored.read()

    def lock(self) -> None:
        """Keep other commands from changing keys until this command ends.

        Raises:
            IotError: another command is changing keys.
        """
        # Postgres needs a moment to notice that a command was killed.
        deadline = time.monotonic() + LOCK_SECONDS
        while not try_lock(self.connection):
            if time.monotonic() >= deadline:
                raise IotError("another `iot-sensor keys` command runs: wait until it has ended")
            time.sleep(_POLL_SECONDS)

    def require_newest_keyring(self) -> None:
        """Refuse a keyring that is older than the stored data, such as one from a backup.

        With such a keyring, `add` would make another key under an id that data already uses. Then
        no keyring would open all data. Only vault records in Postgres count: a writer that was
        taken over can write everything else, and must not prevent a rotation.

        Raises:
            IotError: vault records need a master key with a greater id than any key of the keyring.
        """
        keyring = self.keyring()
        uses = count_vaults(self.connection)
        needed, newest = max(uses, default=0), max([*keyring.key_ids, *keyring.retired])
        if needed > newest:
            raise IotError(
                f"{self._stored.name} is older than the stored data: its newest master key is "
                f"{newest}, but {uses[needed]} vault records in Postgres need master key {needed}. "
                "Restore the newest keyring (docs/backup.md, *Lost keys*)"
            )

    def add(self) -> KeyId:
        """Add a master key. Return its id. Raises the errors of `require_newest_keyring`."""
        self.require_newest_keyring()
        added = self._stored.add_key()
        self._record(AuditKind.KEY_ADDED, key=added)
        self._say_derivation()
        print(f"{self._stored.name}: master key {added} was added, not primary", flush=True)
        return added

    def promote(self, key_id: KeyId) -> None:
        """Make a key primary.

        Raises:
            SettingsError: the keyring lacks the key.
            IotError: a process has not loaded the key within the time of `--wait`.
        """
        with_primary(self._stored.text(), key_id)
        if self.keyring().primary_id == key_id:
            print(f"{self._stored.name}: master key {key_id} is primary already; nothing changed")
            return
        self._wait_for(lambda: self.loading_problems(key_id), f"master key {key_id} stays unused")
        self._record(AuditKind.KEY_PROMOTED, key=key_id)  # first: no change without a trace
        self._stored.change(lambda text: with_primary(text, key_id))
        self._say_derivation()
        print(f"{self._stored.name}: master key {key_id} is primary", flush=True)

    def rewrap(self) -> None:
        """Rewrap all vaults, and encrypt the audit log again, with the primary key.

        Raises:
            IotError: a process did not use the primary key within the time of `--wait`, or a vault
                can't be rewrapped.
        """
        self._wait_for(self._adoption_problems, "nothing was rewrapped")
        rewrap = Rewrap(self.stores.redis, self.stores.names, self.keyring())
        waiting = rewrap.waiting(self.connection)
        rewrap.rewrap_postgres(
            self.connection, lambda done: print(f"{done} of {waiting} vaults rewrapped", flush=True)
        )
        old = set(self.keyring().key_ids) - {self.keyring().primary_id}
        self._wait_for(lambda: self._open_vaults(old), "records in Redis may need old keys")
        rewrap.rewrap_redis(self.connection)
        renew_links(self.connection, self.keyring(), self.stores.audit_head)
        resealed, unreadable = reseal_audit(self.connection, self.keyring())
        result = rewrap.result
        if result.postgres or result.redis or resealed:
            self._record(
                AuditKind.VAULTS_REWRAPPED,
                key=self.keyring().primary_id,
                vaults=result.postgres,
                cached=result.redis,
                audit_records=resealed,
            )
        print(
            f"rewrapped {result.postgres} vaults in Postgres and {result.redis} vault records in "
            f"Redis; encrypted {resealed} audit records again"
        )
        if unreadable:
            print(f"{unreadable} audit records can't be decrypted with any key of the keyring")
        if result.damaged:
            shown = ", ".join(map(str, result.damaged[:_MAX_SHOWN]))
            raise IotError(
                f"{len(result.damaged)} vault records were not rewrapped, because no key of the "
                f"keyring opens them: {shown}; see the alert `IotDamaged` in docs/runbooks.md"
            )

    def retire(self, key_id: KeyId) -> None:
        """Delete a key from the keyring.

        Raises:
            SettingsError: the keyring lacks the key, or the key is primary.
            IotError: data still needs the key, or a process may still use it.
        """
        require_removable(self._stored.text(), key_id)
        kept = f"master key {key_id} is kept"
        self._wait_for(lambda: self._settling_problems(key_id), kept)
        self._wait_for(lambda: self._use_problems(key_id), kept)
        sequence, link = current_head(self.connection) or (0, BEFORE_FIRST)
        self._record(AuditKind.KEY_RETIRED, key=key_id)  # first: no change without a trace
        self._stored.change(lambda text: without_key(text, key_id, sequence=sequence, link=link))
        self._say_derivation()
        print(f"{self._stored.name}: master key {key_id} was retired", flush=True)

    def rotate(self) -> None:
        """Replace the primary key by a new one, or finish a rotation that was interrupted."""
        half_retired = self._stored.retired_key_of_writers()
        self._stored.derive_writer_keys()  # perhaps a killed rotation has not derived them
        keyring = self.keyring()
        if half_retired is not None and len(keyring.key_ids) == 1:
            print(f"finished the rotation that retired master key {half_retired}")
            return
        newer = [key_id for key_id in keyring.key_ids if key_id > keyring.primary_id]
        older = [key_id for key_id in keyring.key_ids if key_id < keyring.primary_id]
        if newer or not older:
            self.promote(max(newer) if newer else self.add())
        else:
            print(f"finishing the rotation to master key {keyring.primary_id}", flush=True)
        self.rewrap()
        keyring = self.keyring()
        # A key with a greater id stays: it was added meanwhile, for the next rotation.
        for key_id in sorted(each for each in keyring.key_ids if each < keyring.primary_id):
            self._wait_for(partial(self._settling_problems, key_id), "no key was retired")
            self.rewrap()  # vaults that earlier requests stored late, under the old key
            self.retire(key_id)

    def loading_problems(self, *key_ids: KeyId) -> list[str]:
        """Return a sentence for each problem that a process has with these keys.

        A problem is that the process has not loaded a key, has loaded another key under the same
        id, or does not report its keys.
        """
        ours = fingerprints(self.keyring())
        reports = self._reports()
        problems = self._reporting_problems(reports)
        for each in reports:
            for key_id in key_ids:
                loaded = each.fingerprints.get(key_id)
                if loaded is None:
                    problems.append(f"{each.process} has not loaded master key {key_id}")
                elif loaded != ours[key_id]:
                    problems.append(
                        f"{each.process} has a different master key under the id {key_id}"
                    )
        return problems

    def _adoption_problems(self) -> list[str]:
        primary = self.keyring().primary_id
        return self.loading_problems(primary) + [
            f"{each.process} still uses master key {each.primary_id} as primary"
            for each in self._reports()
            if each.primary_id != primary
        ]

    def _settling_problems(self, key_id: KeyId) -> list[str]:
        problems = self._adoption_problems() + self._open_vaults({key_id})
        for each in self._reports():
            left = self._settle_seconds - each.primary_seconds
            if left > 0:
                problems.append(
                    f"{each.process} changed its primary key a moment ago, and may use the old one "
                    f"for {left:.0f} s more"
                )
        return problems

    def _open_vaults(self, key_ids: set[KeyId]) -> list[str]:
        return [
            f"{each.process} has {count} open vaults under master key {key_id}"
            for each in self._reports()
            for key_id, count in each.open_vaults.items()
            if key_id in key_ids
        ]

    def _use_problems(self, key_id: KeyId) -> list[str]:
        counts = {
            kind: uses[key_id] for kind, uses in count_uses(self.stores, self.connection).items()
        }
        # Only readable records count: no key opens a damaged record.
        counts["audit records"] = count_readable(self.connection, self.keyring(), key_id)
        return [
            f"{count} {kind} need master key {key_id}" for kind, count in counts.items() if count
        ]

    def _reports(self) -> list[LoadedKeys]:
        return read_reports(self.stores.redis, self.stores.names)

    def _reporting_problems(self, reports: list[LoadedKeys]) -> list[str]:
        if self._stopped:
            return []
        problems = [
            f"no {role} process reports its keys: start the service, or pass --stopped"
            for role in ("api", "writer")
            if all(each.role != role for each in reports)
        ]
        silent = silent_writers(self.stores.redis, self.stores.names, reports)
        return problems + [f"{writer} does not report its keys" for writer in silent]

    def _wait_for(self, problems: Callable[[], list[str]], consequence: str) -> None:
        began = said = time.monotonic()
        while found := problems():
            now = time.monotonic()
            if now >= began + self._wait_seconds:
                listed = "\n".join(f"  {problem}" for problem in found[:_MAX_SHOWN])
                raise IotError(f"{consequence} (waited {self._wait_seconds:g} s):\n{listed}")
            if now >= said:
                more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
                print(f"waiting: {found[0]}{more}", flush=True)
                said = now + _SAY_SECONDS
            time.sleep(_POLL_SECONDS)

    def _say_derivation(self) -> None:
        if self._stored.derivation:
            print(self._stored.derivation, flush=True)

    def _record(self, kind: AuditKind, **fields: int) -> None:
        self._audit_log.record(self.connection, audit_event(kind, **fields))
