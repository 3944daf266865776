"""`iot-sensor keys`: create a keyring, derive the writers' keys, rotate master keys."""

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from iot_cipher.keyring import Keyring, create_keyring_file, parse_keyring
from iot_cipher.keyring_changes import with_new_key
from iot_cipher.writer_keys import fingerprints, write_writer_keys_file
from iot_models.errors import IotError, SettingsError
from iot_models.text_files import read_text
from iot_stores.key_uses import count_uses
from iot_stores.loaded_keys import read_reports, silent_writers

from .file_on_disk import FileOnDisk
from .key_rotation import KeyRotation
from .option_types import Subparsers, positive_integer, seconds
from .stores import open_stores

_VARIABLE = "IOT_KEYRING_FILE"
_SETTLE_SECONDS = 60.0
"""A request may take so long between choosing a master key and storing what it sealed with it."""


def add_keys(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `keys create|writer|list|add|promote|rewrap|retire|rotate|status` to the command."""
    parser = commands.add_parser("keys", help="create keyrings, derive writer keys, rotate keys")
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create a keyring file unless it exists")
    create.add_argument("path", type=Path)
    create.set_defaults(command=_create)
    writer = actions.add_parser("writer", help="derive the file with the keys that writers need")
    writer.add_argument("--keyring", type=Path, required=True, help="keyring to read")
    writer.add_argument("--file", type=Path, required=True, help="file to write")
    writer.set_defaults(command=_derive_writer_keys)
    _add_action(actions, "list", "list the master keys, without the keys themselves", _list)
    added = _add_action(actions, "add", "add a new master key, which is not used yet", _add)
    status = "show the master keys, what needs them, and which processes have loaded them"
    _add_action(actions, "status", status, _status)
    promote = _add_action(
        actions, "promote", "use a key for all new data, once every process has it", _promote
    )
    rewrap = _add_action(actions, "rewrap", "rewrap all vaults with the primary key", _rewrap)
    retire = _add_action(
        actions, "retire", "delete a key for good, unless something needs it", _retire
    )
    rotate = _add_action(actions, "rotate", "add, promote, rewrap and retire", _rotate)
    _add_options(added, promote, rewrap, retire, rotate)


def _add_options(
    added: argparse.ArgumentParser,
    promote: argparse.ArgumentParser,
    rewrap: argparse.ArgumentParser,
    retire: argparse.ArgumentParser,
    rotate: argparse.ArgumentParser,
) -> None:
    for action in (promote, retire):
        action.add_argument("id", type=positive_integer, help="id of the master key")
    for action in (added, promote, retire, rotate):
        action.add_argument(
            "--writer-keys", type=Path, help="file with the writers' keys, to derive again"
        )
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
            help="the service is stopped: go on although no process reports its keys",
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
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=meaning)
    action.add_argument("--keyring", type=Path, help=f"keyring file; default: {_VARIABLE}")
    action.set_defaults(command=command)
    return action


def _create(parsed: argparse.Namespace) -> int:
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
    _print_keys(parse_keyring(read_text(_path(parsed))))
    return 0


def _print_keys(keyring: Keyring) -> None:
    for key_id, mark in sorted(fingerprints(keyring).items()):
        print(f"master key {key_id}  {mark}  {'primary' if key_id == keyring.primary_id else ''}")


def _add(parsed: argparse.Namespace) -> int:
    path, added = _path(parsed), 0

    def add(text: str | None) -> str:
        nonlocal added
        if text is None:
            raise SettingsError(f"{path} does not exist: create it with `iot-sensor keys create`")
        changed, added = with_new_key(text)
        return changed

    FileOnDisk(path).change(add)
    print(f"{path}: master key {added} added, not primary")
    if parsed.writer_keys is None:
        print(
            "Derive the writers' keys again (`iot-sensor keys writer`), wait until `iot-sensor "
            f"keys status` shows key {added} in all processes, then `iot-sensor keys promote "
            f"{added}`."
        )
    else:
        write_writer_keys_file(path, parsed.writer_keys)
        print(f"{parsed.writer_keys}: written")
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


def _promote(parsed: argparse.Namespace) -> int:
    with _rotation(parsed) as rotation:
        rotation.lock()
        rotation.promote(parsed.id)
    return 0


def _rewrap(parsed: argparse.Namespace) -> int:
    with _rotation(parsed) as rotation:
        rotation.lock()
        rotation.rewrap()
    return 0


def _retire(parsed: argparse.Namespace) -> int:
    with _rotation(parsed) as rotation:
        rotation.lock()
        rotation.retire(parsed.id)
    return 0


def _rotate(parsed: argparse.Namespace) -> int:
    with _rotation(parsed) as rotation:
        rotation.lock()
        rotation.rotate()
    return 0


def _path(parsed: argparse.Namespace) -> Path:
    if parsed.keyring is not None:
        return Path(parsed.keyring)
    name = os.environ.get(_VARIABLE, "").strip()
    if not name:
        raise SettingsError(f"--keyring and {_VARIABLE} are not set: name the keyring file")
    return Path(name)


@contextmanager
def _rotation(parsed: argparse.Namespace) -> Iterator[KeyRotation]:
    path = _path(parsed)
    os.environ[_VARIABLE] = str(path)  # the settings require it
    with open_stores("keys") as stores, stores.connect() as connection:
        stores.watch.require_ours()
        try:
            yield KeyRotation(
                stores,
                connection,
                FileOnDisk(path),
                writer_keys=getattr(parsed, "writer_keys", None),
                wait_seconds=getattr(parsed, "wait", 0.0),
                settle_seconds=getattr(parsed, "settle", 0.0),
                stopped=getattr(parsed, "stopped", False),
            )
        except psycopg.errors.InsufficientPrivilege as error:
            raise IotError(
                f"the role in IOT_POSTGRES_URL lacks a privilege ({error.diag.message_primary}): "
                "use the role that owns the tables, iot_migration"
            ) from None
