"""`iot-sensor keys`: create a keyring, derive the writers' keys, rotate master keys."""

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

from iot_cipher.keyring import Keyring, create_keyring_file, parse_keyring
from iot_cipher.writer_keys import fingerprints, write_writer_keys_file
from iot_models.errors import SettingsError
from iot_models.text_files import read_text

from .option_types import Subparsers, positive_integer, seconds
from .secret_options import add_namespace, refuse_without
from .stored_keyring import add_keyring_options, stored_keyring

_SETTLE_SECONDS = 60.0
"""Longest time for which a running request may still use the former primary master key. A request
chooses its master key first, and later stores what it has encrypted under this key."""


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Add `keys create|writer|list|add|promote|rewrap|retire|rotate|status`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    create = actions.add_parser("create", help="create a keyring, unless the file or Secret exists")
    where = create.add_mutually_exclusive_group(required=True)
    where.add_argument("path", type=Path, nargs="?", help="file to create")
    where.add_argument("--secret", help="Secret to create in the cluster")
    add_namespace(create)
    create.set_defaults(command=_create)
    writer = actions.add_parser("writer", help="derive the file with the keys that writers need")
    writer.add_argument("--keyring", type=Path, required=True, help="keyring to read")
    writer.add_argument("--file", type=Path, required=True, help="file to write")
    writer.set_defaults(command=_derive_writer_keys)
    _add_action(actions, "list", "list the master keys, without the keys themselves", _list)
    add = "add a new master key, which is not used yet"
    _add_action(actions, "add", add, _rotating("add"), changes=True)
    status = "show the master keys, what needs them, and which processes have loaded them"
    _add_action(actions, "status", status, _rotating("status"))
    promoted = "use a key for all new data, once every process has it"
    promote = _add_action(actions, "promote", promoted, _rotating("promote"), changes=True)
    rewrapped = "rewrap all vaults with the primary key"
    rewrap = _add_action(actions, "rewrap", rewrapped, _rotating("rewrap"))
    retired = "delete a key for good, unless something needs it"
    retire = _add_action(actions, "retire", retired, _rotating("retire"), changes=True)
    all_steps = "add, promote, rewrap and retire; repeat the command if it was interrupted"
    rotate = _add_action(actions, "rotate", all_steps, _rotating("rotate"), changes=True)
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


def _rotating(action: str) -> Callable[[argparse.Namespace], int]:
    """Return a command that runs the function `action` of the module `rotating_keys`.

    The module is imported only when the command runs: importing the drivers of Redis and Postgres
    takes three times as long as the whole of `keys create`.
    """

    def run(parsed: argparse.Namespace) -> int:
        exit_code: int = getattr(importlib.import_module(".rotating_keys", __package__), action)(
            parsed
        )
        return exit_code

    return run


def _add_action(
    actions: "Subparsers[argparse.ArgumentParser]",
    name: str,
    meaning: str,
    command: Callable[[argparse.Namespace], int],
    *,
    changes: bool = False,
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=meaning)
    add_keyring_options(action, writer_keys=changes)
    action.set_defaults(command=command)
    return action


def _create(parsed: argparse.Namespace) -> int:
    refuse_without(parsed, "namespace", "secret")
    if parsed.secret is not None:
        from iot_tools.cluster.secret_text import create_keyring_secret  # noqa: PLC0415 -- slow

        create_keyring_secret(parsed.secret, parsed.namespace)
        return 0
    try:
        created = create_keyring_file(parsed.path)
    except OSError as error:
        raise SettingsError(f"{parsed.path} can't be written: {error.strerror}") from None
    if not created:
        _check_existing(parsed.path)
    print(f"{parsed.path}: created" if created else f"{parsed.path}: exists, not changed")
    return 0


def _check_existing(path: Path) -> None:
    if not path.is_file():  # also a dangling link; reading a FIFO would wait for a writer
        raise SettingsError(f"{path} is not a regular file")
    text = read_text(path)
    try:
        parse_keyring(text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def _derive_writer_keys(parsed: argparse.Namespace) -> int:
    try:
        written = write_writer_keys_file(parsed.keyring, parsed.file)
    except OSError as error:
        raise SettingsError(f"{parsed.file} can't be written: {error.strerror}") from None
    print(f"{parsed.file}: written" if written else f"{parsed.file}: up to date, not changed")
    return 0


def _list(parsed: argparse.Namespace) -> int:
    print_keys(stored_keyring(parsed).read())
    return 0


def print_keys(keyring: Keyring) -> None:
    """Print the ids and fingerprints of the master keys."""
    for key_id, mark in sorted(fingerprints(keyring).items()):
        print(f"master key {key_id}  {mark}  {'primary' if key_id == keyring.primary_id else ''}")
