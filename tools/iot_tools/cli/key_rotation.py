"""The steps of a rotation of master keys, each safe to repeat after it was killed."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from iot_cipher.chain_keys import BEFORE_FIRST
from iot_cipher.keyring import KeyId, Keyring, parse_keyring
from iot_cipher.keyring_changes import (
    require_removable,
    with_new_key,
    with_primary,
    without_key,
)
from iot_cipher.writer_keys import fingerprints, write_writer_keys_file
from iot_models.errors import IotError, SettingsError
from iot_stores.audit import AuditLog
from iot_stores.audit_chain import current_head
from iot_stores.audit_reseal import count_readable, renew_links, reseal_audit
from iot_stores.key_uses import count_uses
from iot_stores.loaded_keys import LoadedKeys, read_reports, silent_writers
from iot_stores.postgres import Connection
from iot_stores.rewrap import Rewrap, try_lock

from .file_on_disk import FileOnDisk
from .stores import CommandStores

_POLL_SECONDS = 1.0
_MAX_SHOWN = 10


class KeyRotation:
    """Changes a keyring file, and what its keys wrap."""

    def __init__(
        self,
        stores: CommandStores,
        connection: Connection,
        file: FileOnDisk,
        *,
        writer_keys: Path | None,
        wait_seconds: float,
        settle_seconds: float,
        stopped: bool,
    ) -> None:
        """`writer_keys`: the file to derive again after each change of the keyring."""
        self.stores = stores
        self.connection = connection
        self._file = file
        self._writer_keys = writer_keys
        self._wait_seconds = wait_seconds
        self._settle_seconds = settle_seconds
        self._stopped = stopped
        self._audit_log = AuditLog(self.keyring)

    def keyring(self) -> Keyring:
        """Return the keyring that the file holds now."""
        return parse_keyring(self._text(self._file.read()))

    def lock(self) -> None:
        """Let no other command change keys until this one ends.

        Raises:
            IotError: another command is changing keys.
        """
        if not try_lock(self.connection):
            raise IotError("another `iot-sensor keys` command runs: wait until it has ended")

    def add(self) -> KeyId:
        """Add a master key. Return its id."""
        added = 0

        def add(text: str | None) -> str:
            nonlocal added
            changed, added = with_new_key(self._text(text))
            return changed

        self._change(add, "a master key is added")
        print(f"{self._file.name}: master key {added} was added, not primary", flush=True)
        return added

    def promote(self, key_id: KeyId) -> None:
        """Make a key primary.

        Raises:
            SettingsError: the keyring lacks the key.
            IotError: a process has not loaded the key.
        """
        with_primary(self._text(self._file.read()), key_id)
        self._wait_for(lambda: self.loading_problems(key_id), f"master key {key_id} stays unused")
        self._change(
            lambda text: with_primary(self._text(text), key_id),
            f"master key {key_id} becomes primary",
        )
        print(f"{self._file.name}: master key {key_id} is primary", flush=True)

    def rewrap(self) -> None:
        """Rewrap all vaults, and encrypt the audit log again, with the primary key.

        Raises:
            IotError: a process does not use the primary key yet, or a vault can't be rewrapped.
        """
        self._wait_for(self._adoption_problems, "nothing was rewrapped")
        rewrap = Rewrap(self.stores.redis, self.stores.names, self.keyring())
        waiting = rewrap.waiting(self.connection)
        rewrap.rewrap_postgres(
            self.connection, lambda done: print(f"{done} of {waiting} vaults rewrapped", flush=True)
        )
        old = set(self.keyring().key_ids) - {self.keyring().primary_id}
        self._wait_for(lambda: self._open_vaults(old), "their records in Redis may be of old keys")
        rewrap.rewrap_redis(self.connection)
        renew_links(self.connection, self.keyring(), self.stores.audit_head)
        resealed, unreadable = reseal_audit(self.connection, self.keyring())
        result = rewrap.result
        print(
            f"{result.postgres} vaults rewrapped, {result.redis} records in Redis, "
            f"{resealed} audit records"
        )
        if unreadable:
            print(f"{unreadable} audit records can't be decrypted with any key of the keyring")
        if result.damaged:
            shown = ", ".join(map(str, result.damaged[:_MAX_SHOWN]))
            raise IotError(
                f"{len(result.damaged)} vault records open with no key of the keyring, and were "
                f"not rewrapped: {shown}; see `IotDamaged` in docs/operations.md"
            )

    def retire(self, key_id: KeyId) -> None:
        """Delete a key from the keyring.

        Raises:
            SettingsError: the keyring lacks the key, or the key is primary.
            IotError: something still needs the key.
        """
        require_removable(self._text(self._file.read()), key_id)
        kept = f"master key {key_id} is kept"
        self._wait_for(lambda: self._settling_problems(key_id), kept)
        # Before the count: with another key this line would need the old key itself.
        self._record(f"master key {key_id} is retired unless something needs it")
        self._wait_for(lambda: self._use_problems(key_id), kept)
        sequence, link = current_head(self.connection) or (0, BEFORE_FIRST)
        self._change(
            lambda text: without_key(self._text(text), key_id, sequence=sequence, link=link),
            f"master key {key_id} is retired",
        )
        print(f"{self._file.name}: master key {key_id} was retired", flush=True)

    def rotate(self) -> None:
        """Replace the primary key by a new one, or finish a rotation that was interrupted."""
        keyring = self.keyring()
        newer = [key_id for key_id in keyring.key_ids if key_id > keyring.primary_id]
        older = [key_id for key_id in keyring.key_ids if key_id < keyring.primary_id]
        if newer or not older:
            self.promote(max(newer) if newer else self.add())
        else:
            print(f"finishing the rotation to master key {keyring.primary_id}")
            self._derive_writer_keys()
        self.rewrap()
        keyring = self.keyring()
        for key_id in sorted(set(keyring.key_ids) - {keyring.primary_id}):
            self._wait_for(partial(self._settling_problems, key_id), "no key was retired")
            self.rewrap()  # what requests that had begun earlier stored under the old key
            self.retire(key_id)

    def loading_problems(self, *key_ids: KeyId) -> list[str]:
        """Return why processes can't use these keys."""
        ours = fingerprints(self.keyring())
        reports = self._reports()
        problems = self._reporting_problems(reports)
        for each in reports:
            for key_id in key_ids:
                loaded = each.fingerprints.get(key_id)
                if loaded is None:
                    problems.append(f"{each.process} has not loaded master key {key_id}")
                elif loaded != ours[key_id]:
                    problems.append(f"{each.process} has another master key {key_id}")
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
                problems.append(f"{each.process} may use its old primary key for {left:.0f} s more")
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
        # No key opens a damaged record.
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
        deadline = time.monotonic() + self._wait_seconds
        while found := problems():
            if time.monotonic() >= deadline:
                listed = "\n".join(f"  {problem}" for problem in found[:_MAX_SHOWN])
                raise IotError(f"{consequence}:\n{listed}")
            time.sleep(_POLL_SECONDS)

    def _change(self, change: Callable[[str | None], str], line: str) -> None:
        self._record(line)  # before the change: nothing is changed without a trace
        self._file.change(change)
        self._derive_writer_keys()

    def _derive_writer_keys(self) -> None:
        if self._writer_keys is None:
            print("Derive the writers' keys again: `iot-sensor keys writer`.", flush=True)
            return
        write_writer_keys_file(Path(self._file.name), self._writer_keys)

    def _record(self, line: str) -> None:
        self._audit_log.record(self.connection, line)

    def _text(self, text: str | None) -> str:
        if text is None:
            raise SettingsError(f"{self._file.name} does not exist")
        return text
