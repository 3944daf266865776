"""`iot-sensor dead`: list, show, replay and drop dead letters."""

import argparse
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

from iot_cipher.encryption import Entry, decode_entry
from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError, SettingsError
from iot_models.logs import printable
from iot_stores.dead_letters import DeadLetter
from iot_stores.forgotten import REASON, is_forgotten

from .stores import CommandStores, open_stores

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DRAIN_SECONDS = 5.0


def add_dead(parser: argparse.ArgumentParser) -> None:
    """Add `dead list|show|replay|drop`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    listing = actions.add_parser("list", help="list all dead letters, the oldest first")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="show one dead letter, without its readings")
    show.add_argument("id", help="id of the dead letter")
    show.set_defaults(command=_show)
    replay = actions.add_parser(
        "replay",
        help="put dead letters back into the backlog; without --even-if-stored, each is stored at "
        "most once, and keeps its time of receipt",
    )
    drop = actions.add_parser("drop", help="delete dead letters for good")
    replay.add_argument(
        "--even-if-stored",
        action="store_true",
        help="also replay an entry that is so old that it is unknown whether it is stored; its "
        "readings may then be stored twice",
    )
    for action, command in ((replay, _replay), (drop, _drop)):
        which = action.add_mutually_exclusive_group(required=True)
        which.add_argument("id", nargs="?", help="id of a dead letter")
        which.add_argument("--all", action="store_true", help="all dead letters")
        action.set_defaults(command=command)


def _selected(stores: CommandStores, parsed: argparse.Namespace) -> Iterator[DeadLetter]:
    """With `--all`, yield the present dead letters, else the dead letter that the options name.

    Raises:
        SettingsError: the id is invalid.
        IotError: no dead letter has the id.
    """
    if getattr(parsed, "all", False):
        # A replayed letter that fails again is added to the end: without a limit, `--all` might
        # replay it again and again.
        yield from islice(stores.dead_letters.all(), stores.dead_letters.count())
        return
    try:
        letter = stores.dead_letters.find(parsed.id)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    if letter is None:
        raise IotError(f"no dead letter has the id {parsed.id}")
    yield letter


def _open(stores: CommandStores, letter: DeadLetter) -> Entry:
    """Decrypt a dead letter. Raises `IotError` when that fails."""
    return decode_entry(stores.opener.open(letter.shard, letter.sealed).content)


def _is_forgotten(stores: CommandStores, letter: DeadLetter, now: int) -> bool:
    with stores.connect() as connection:
        return is_forgotten(connection, stores.opener, letter, now)


def _is_removed(stores: CommandStores, letter: DeadLetter) -> bool:
    """Wait up to 5 seconds until the letter's entry has left the backlog. Return whether it has.

    A drain adds the dead letter before it removes the entry from the backlog. If the letter were
    replayed or dropped in between, the next drain would add it again. If the entry is not removed
    in time, print that the letter stays unchanged.
    """
    until = time.monotonic() + _DRAIN_SECONDS
    while stores.backlog.holds(letter.shard, letter.entry_id):
        if time.monotonic() > until:
            print(f"{letter.letter_id}: unchanged: its entry is still in the backlog, because no "
                  "drain of its shard has completed; try again later")  # fmt: skip
            return False
        time.sleep(0.1)
    return True


def _list(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- the signature of all commands
    found = False
    with open_stores("dead") as stores:
        for letter in stores.dead_letters.all():
            found = True
            print(f"{letter.letter_id}  {_set_aside_at(letter)}  shard {letter.shard}  "
                  f"{len(letter.sealed)} bytes  {printable(letter.reason)}")  # fmt: skip
    if not found:
        print("no dead letters", file=sys.stderr)
    return 0


def _show(parsed: argparse.Namespace) -> int:
    with open_stores("dead") as stores:
        for letter in _selected(stores, parsed):
            print(f"id        {letter.letter_id}")
            print(f"set aside {_set_aside_at(letter)}")
            print(f"received  {_moment(letter.received)}")
            print(f"shard     {letter.shard}")
            print(f"bytes     {len(letter.sealed)}")
            print(f"reason    {printable(letter.reason)}")
            print(f"content   {_content(stores, letter)}")
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    refused = 0
    with open_stores("dead") as stores:
        stores.require_ownership()
        for letter in _selected(stores, parsed):
            if not _is_removed(stores, letter):
                refused += 1
                continue
            now = stores.backlog.now()
            forgotten = _is_forgotten(stores, letter, now)
            if forgotten and not parsed.even_if_stored:
                refused += 1
                print(f"{letter.letter_id}: not replayed: {REASON}; to replay it, "
                      "pass --even-if-stored")  # fmt: skip
                continue
            # With its old time of receipt, an entry too old for the ledger is set aside again.
            received = None if forgotten else letter.received_for_replay(now)
            # If the command is killed before the deletion, the letter can be replayed again: the
            # ledger recognizes the second copy of the entry.
            stores.backlog.append([(letter.shard, letter.sealed)], received=received)
            event = audit_event(
                AuditKind.DEAD_LETTER_REPLAYED, letter=letter.letter_id, shard=letter.shard
            )
            stores.audit(event)
            stores.dead_letters.drop(letter)
            print(f"{letter.letter_id}: back in the backlog")
    return 1 if refused else 0


def _drop(parsed: argparse.Namespace) -> int:
    refused = 0
    with open_stores("dead") as stores:
        stores.require_ownership()
        for letter in _selected(stores, parsed):
            if not _is_removed(stores, letter):
                refused += 1
                continue
            # Recorded before the deletion: nothing is deleted without a trace.
            event = audit_event(
                AuditKind.DEAD_LETTER_DROPPED,
                letter=letter.letter_id,
                shard=letter.shard,
                reason=letter.reason,
            )
            stores.audit(event)
            stores.dead_letters.drop(letter)
            print(f"{letter.letter_id}: deleted")
    return 1 if refused else 0


def _content(stores: CommandStores, letter: DeadLetter) -> str:
    try:
        entry = _open(stores, letter)
    except IotError as error:
        return f"can't be opened: {error}"
    return f"{len(entry.readings)} readings of vault {entry.vault_id.hex()}"


def _set_aside_at(letter: DeadLetter) -> str:
    return _moment(int(letter.letter_id.partition("-")[0]))


def _moment(milliseconds: int) -> str:
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return f"after the year 9999 ({milliseconds})"
    return moment.strftime("%Y-%m-%d %H:%M:%S")
