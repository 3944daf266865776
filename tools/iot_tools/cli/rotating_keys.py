"""The actions of `iot-sensor keys` that need the stores: the steps of a rotation, and `status`."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError
from iot_stores.key_uses import count_uses
from iot_stores.loaded_keys import read_reports, silent_writers

from .audit_trail import has_stores, record_if_configured
from .key_rotation import KeyRotation
from .keys import print_keys
from .stored_keyring import stored_keyring
from .stores import open_stores


def add(parsed: argparse.Namespace) -> int:
    """Add a master key to the keyring. The primary key stays primary."""
    stored = stored_keyring(parsed)
    with _lock(parsed):
        added = stored.add_key()
    print(f"{stored.name}: master key {added} was added, not primary")
    event = audit_event(AuditKind.KEY_ADDED, key=added)
    record_if_configured("keys", event, stored.read)
    if stored.derivation:
        print(stored.derivation)
    print(
        f"Wait until `iot-sensor keys status` shows key {added} in all processes, then run "
        f"`iot-sensor keys promote {added}`."
    )
    return 0


def status(parsed: argparse.Namespace) -> int:
    """Print the master keys, what needs them, and which processes have loaded them."""
    with _rotation(parsed) as rotation:
        keyring, stores = rotation.keyring(), rotation.stores
        print_keys(keyring)
        uses = count_uses(stores, rotation.connection)
        for kind, counts in uses.items():
            for key_id, count in sorted(counts.items()):
                if key_id in keyring.key_ids:
                    print(f"{kind}: {count} need master key {key_id}")
            # Items without a header count under the id 0, which no key has.
            if lost := sum(counts[key_id] for key_id in counts.keys() - set(keyring.key_ids)):
                print(f"{kind}: {lost} can't be opened by any key of the keyring")
        reports = read_reports(stores.redis, stores.names)
        for each in reports:
            loaded = ", ".join(map(str, sorted(each.fingerprints)))
            opened = "".join(
                f", {count} open vaults under key {key_id}"
                for key_id, count in sorted(each.open_vaults.items())
            )
            print(f"{each.process}: keys {loaded}, primary {each.primary_id}{opened}")
        for writer in silent_writers(stores.redis, stores.names, reports):
            print(f"{writer}: does not report its keys")
        for problem in rotation.loading_problems(*keyring.key_ids):
            print(problem)
    return 0


def _locked(
    step: Callable[[KeyRotation, argparse.Namespace], object],
) -> Callable[[argparse.Namespace], int]:
    """Return a command that runs a step of a rotation while it holds `KeyRotation.lock`."""

    def run(parsed: argparse.Namespace) -> int:
        with _rotation(parsed) as rotation:
            rotation.lock()
            step(rotation, parsed)
        return 0

    return run


promote = _locked(lambda rotation, parsed: rotation.promote(parsed.id))
rewrap = _locked(lambda rotation, _: rotation.rewrap())
retire = _locked(lambda rotation, parsed: rotation.retire(parsed.id))
rotate = _locked(lambda rotation, _: rotation.rotate())


@contextmanager
def _lock(parsed: argparse.Namespace) -> Iterator[None]:
    """Hold `KeyRotation.lock` during the block, so that no other command changes keys.

    Refuse a keyring that is older than the stored data. The lock is in Postgres. If the environment
    names no Postgres, print a warning and run the block without the lock and without this check.
    """
    if not has_stores():
        print(
            "IOT_POSTGRES_URL is not set: the audit log does not record the new key, another "
            "`keys` command may change the keyring at the same time, and nothing checks that the "
            "keyring is the newest one"
        )
        yield
        return
    with _rotation(parsed) as rotation:
        rotation.lock()
        rotation.require_newest_keyring()
        yield


@contextmanager
def _rotation(parsed: argparse.Namespace) -> Iterator[KeyRotation]:
    stored = stored_keyring(parsed)
    with (
        open_stores("keys", stored.read) as stores,
        stores.connect() as connection,
    ):
        stores.require_ownership()
        try:
            yield KeyRotation(
                stores,
                connection,
                stored,
                wait_seconds=getattr(parsed, "wait", 0.0),
                settle_seconds=getattr(parsed, "settle", 0.0),
                stopped=getattr(parsed, "stopped", False),
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise IotError(
                f"the role in IOT_POSTGRES_URL lacks a privilege ({error.diag.message_primary}): "
                "use the role that owns the tables, iot_migration"
            ) from None
