"""`iot-sensor keys`: create a keyring, derive the writers' keys, rotate master keys."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from iot_cipher.keyring import Keyring, create_keyring_file
from iot_cipher.writer_keys import derive_writer_keys, fingerprints, write_writer_keys_file
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError, SettingsError
from iot_stores.key_uses import count_uses
from iot_stores.loaded_keys import read_reports, silent_writers

from .audit_trail import has_stores, record_if_configured
from .key_rotation import KeyRotation
from .keyring_place import add_place, place_of
from .option_types import Subparsers, positive_integer, seconds
from .stores import open_stores

_SETTLE_SECONDS = 60.0
"""Longest time of a request from choosing a master key to storing what it sealed with the key."""


def add_keys(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `keys create|writer|list|add|promote|rewrap|retire|rotate|status` to the command."""
    parser = commands.add_parser("keys", help="create keyrings, derive writer keys, rotate keys")
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create a keyring unless it exists")
    where = create.add_mutually_exclusive_group(required=True)
    where.add_argument("path", type=Path, nargs="?", help="file to create")
    where.add_argument("--secret", help="Secret to create in the cluster")
    create.add_argument("--namespace", help="namespace of the Secret; default: that of the pod")
    create.set_defaults(command=_create)
    writer = actions.add_parser("writer", help="derive the file with the keys that writers need")
    writer.add_argument("--keyring", type=Path, required=True, help="keyring to read")
    writer.add_argument("--file", type=Path, required=True, help="file to write")
    writer.set_defaults(command=_derive_writer_keys)
    _add_action(actions, "list", "list the master keys, without the keys themselves", _list)
    add = "add a new master key, which is not used yet"
    _add_action(actions, "add", add, _add, changes=True)
    status = "show the master keys, what needs them, and which processes have loaded them"
    _add_action(actions, "status", status, _status)
    promoted = "use a key for all new data, once every process has it"
    run = _locked(lambda rotation, parsed: rotation.promote(parsed.id))
    promote = _add_action(actions, "promote", promoted, run, changes=True)
    rewrapped = "rewrap all vaults with the primary key"
    run = _locked(lambda rotation, _: rotation.rewrap())
    rewrap = _add_action(actions, "rewrap", rewrapped, run)
    retired = "delete a key for good, unless something needs it"
    run = _locked(lambda rotation, parsed: rotation.retire(parsed.id))
    retire = _add_action(actions, "retire", retired, run, changes=True)
    all_steps = "add, promote, rewrap and retire; repeat the command if it was interrupted"
    run = _locked(lambda rotation, _: rotation.rotate())
    rotate = _add_action(actions, "rotate", all_steps, run, changes=True)
    _add_options(promote, rewrap, retire, rotate)


def _add_options(
    promote: argparse.ArgumentParser,
    rewrap: argparse.ArgumentParser,
    retire: argparse.ArgumentParser,
    rotate: argparse.ArgumentParser,
) -> None:
    for action in (promote, retire):
        action.add_argument("id", type=positive_integer, help="id of the master key")
    for action, wait in ((promote, 0.0), (rewrap, 60.0), (retire, 0.0), (rotate, 600.0)):
        action.add_argument(
            "--wait",
            type=seconds,
            default=wait,
            metavar="SECONDS",
            help=f"time to wait for the processes at each step (default {wait:g})",
        )
        action.add_argument(
            "--stopped",
            action="store_true",
            help="the service is stopped: continue although no process reports its keys",
        )
    for action in (retire, rotate):
        action.add_argument(
            "--settle",
            type=seconds,
            default=_SETTLE_SECONDS,
            metavar="SECONDS",
            help="time for which every process must have used the new primary key "
            f"(default {_SETTLE_SECONDS:g})",
        )


def _add_action(
    actions: "Subparsers[argparse.ArgumentParser]",
    name: str,
    meaning: str,
    command: Callable[[argparse.Namespace], int],
    *,
    changes: bool = False,
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=meaning)
    add_place(action, writer_keys=changes)
    action.set_defaults(command=command)
    return action


def _create(parsed: argparse.Namespace) -> int:
    if parsed.secret is not None:
        from iot_tools.cluster.secret_text import create_keyring_secret  # noqa: PLC0415 -- slow

        create_keyring_secret(parsed.secret, parsed.namespace)
        return 0
    try:
        created = create_keyring_file(parsed.path)
    except OSError as error:
        raise SettingsError(f"{parsed.path} can't be written: {error.strerror}") from None
    print(f"{parsed.path}: created" if created else f"{parsed.path}: exists, not changed")
    return 0


def _derive_writer_keys(parsed: argparse.Namespace) -> int:
    try:
        written = write_writer_keys_file(parsed.keyring, parsed.file)
    except OSError as error:
        raise SettingsError(f"{parsed.file} can't be written: {error.strerror}") from None
    print(f"{parsed.file}: written" if written else f"{parsed.file}: up to date, not changed")
    return 0


def _list(parsed: argparse.Namespace) -> int:
    _print_keys(place_of(parsed).read())
    return 0


def _print_keys(keyring: Keyring) -> None:
    for key_id, mark in sorted(fingerprints(keyring).items()):
        print(f"master key {key_id}  {mark}  {'primary' if key_id == keyring.primary_id else ''}")


def _add(parsed: argparse.Namespace) -> int:
    place = place_of(parsed)
    with _lock(parsed):
        added = place.add_key()
    print(f"{place.name}: master key {added} was added, not primary")
    event = audit_event(AuditKind.KEY_ADDED, key=added)
    record_if_configured("keys", event, lambda: derive_writer_keys(place.read()))
    if place.derivation:
        print(place.derivation)
    print(
        f"Wait until `iot-sensor keys status` shows key {added} in all processes, then "
        f"`iot-sensor keys promote {added}`."
    )
    return 0


def _status(parsed: argparse.Namespace) -> int:
    with _rotation(parsed) as rotation:
        keyring, stores = rotation.keyring(), rotation.stores
        _print_keys(keyring)
        uses = count_uses(stores, rotation.connection)
        for kind, counts in uses.items():
            for key_id, count in sorted(counts.items()):
                print(f"{kind}: {count} need master key {key_id}")
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
    """Return a command that runs a step of a rotation while no other command changes keys."""

    def run(parsed: argparse.Namespace) -> int:
        with _rotation(parsed) as rotation:
            rotation.lock()
            step(rotation, parsed)
        return 0

    return run


@contextmanager
def _lock(parsed: argparse.Namespace) -> Iterator[None]:
    """Let no other command change keys during the block, if the environment names a Postgres."""
    if not has_stores():
        print(
            "IOT_POSTGRES_URL is not set: the audit log does not record this, and another `keys` "
            "command may run"
        )
        yield
        return
    with _rotation(parsed) as rotation:
        rotation.lock()
        yield


@contextmanager
def _rotation(parsed: argparse.Namespace) -> Iterator[KeyRotation]:
    place = place_of(parsed)
    with (
        open_stores("keys", lambda: derive_writer_keys(place.read())) as stores,
        stores.connect() as connection,
    ):
        stores.watch.require_ownership()
        try:
            yield KeyRotation(
                stores,
                connection,
                place,
                wait_seconds=getattr(parsed, "wait", 0.0),
                settle_seconds=getattr(parsed, "settle", 0.0),
                stopped=getattr(parsed, "stopped", False),
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise IotError(
                f"the role in IOT_POSTGRES_URL lacks a privilege ({error.diag.message_primary}): "
                "use the role that owns the tables, iot_migration"
            ) from None
