"""`iot-sensor dead`: the entries that could not be stored, and what to do with them."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from redis import Redis

from iot_cipher.envelope import Opener, entry_name
from iot_cipher.writer_keys import WriterKeysFile
from iot_models.entry import Entry, decode_entry
from iot_models.errors import IotError, SettingsError
from iot_models.names import KeyNames
from iot_models.settings import Settings, load
from iot_stores.audit import AuditLog
from iot_stores.backlog import Backlog
from iot_stores.dead_letters import DeadLetter, DeadLetters
from iot_stores.forgotten import REASON, DatedEntry, find_forgotten
from iot_stores.installation import Installation
from iot_stores.postgres import connect_postgres
from iot_stores.redis_client import connect_redis
from iot_stores.watched_stores import watch_redis

from .store_errors import naming_states

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Subparsers = argparse._SubParsersAction  # noqa: SLF001 -- argparse has no public name for it


def add_dead(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `dead list|show|replay|drop` to the command."""
    parser = commands.add_parser("dead", help="entries that could not be stored")
    actions = parser.add_subparsers(required=True, metavar="action")
    listing = actions.add_parser("list", help="every one, the oldest first")
    listing.set_defaults(command=_list)
    show = actions.add_parser("show", help="what can be told of one, never its readings")
    show.add_argument("id")
    show.set_defaults(command=_show)
    replay = actions.add_parser("replay", help="put back into the backlog; stored once at most")
    drop = actions.add_parser("drop", help="delete for good")
    replay.add_argument(
        "--even-if-stored",
        action="store_true",
        help="replay also what is so old that it can't be told whether it is stored already; "
        "then its readings may be stored twice",
    )
    for action, command in ((replay, _replay), (drop, _drop)):
        which = action.add_mutually_exclusive_group(required=True)
        which.add_argument("id", nargs="?")
        which.add_argument("--all", action="store_true")
        action.set_defaults(command=command)


def require_ours(redis: "Redis", settings: Settings) -> None:
    """Refuse to change a Redis that belongs to another installation than the database does.

    Raises:
        UnavailableError: it does; the log says so.
    """
    connect = partial(connect_postgres, settings, name="iot-sensor")
    watch_redis(redis, Installation(connect), settings).require_ours()


class _Dead:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.redis = connect_redis(settings)
        names = KeyNames(settings.redis_key_prefix)
        self.letters = DeadLetters(self.redis, names)
        self.backlog = Backlog(
            self.redis, names, shards=settings.shards, max_bytes=settings.backlog_max_bytes
        )
        self.keys = WriterKeysFile(Path(settings.keyring_file))

    def asked(self, parsed: argparse.Namespace) -> Iterator[DeadLetter]:
        """The letters a command names: one, or all there are."""
        if getattr(parsed, "all", False):
            yield from self.letters.all()
            return
        try:
            letter = self.letters.find(parsed.id)
        except ValueError as error:
            raise SettingsError(str(error)) from None
        if letter is None:
            raise IotError(f"there is no dead letter {parsed.id}")
        yield letter

    def open(self, letter: DeadLetter) -> Entry:
        """What was sealed. Raises `IotError` when it can't be opened."""
        return decode_entry(Opener(self.keys.current).open(letter.shard, letter.sealed).content)

    def is_forgotten(self, letter: DeadLetter) -> bool:
        """Whether it can't be told any more if an entry is stored. In the backlog it would get an
        id of now, and be stored.
        """
        try:
            sealed = self.open(letter).sealed_at
        except IotError:
            return False  # nor can a writer open it
        name, received = entry_name(letter.shard, letter.sealed), _milliseconds(letter.entry_id)
        dated = DatedEntry((letter.shard, name.session), received, sealed)
        with connect_postgres(self.settings, name="iot-sensor dead") as connection:
            return bool(find_forgotten(connection, [dated], self.backlog.now()))

    def require_ours(self) -> None:
        """Refuse to change what belongs to another installation."""
        require_ours(self.redis, self.settings)

    def audit(self, line: str) -> None:
        """Note what was done."""
        with connect_postgres(self.settings, name="iot-sensor dead") as connection:
            AuditLog(self.keys.current).record(connection, line)


@contextmanager
def _dead() -> Iterator[_Dead]:
    dead = _Dead(load())
    try:
        with naming_states():
            yield dead
    finally:
        dead.redis.close()


def _list(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- as every command
    with _dead() as dead:
        for letter in dead.letters.all():
            print(f"{letter.letter_id}  {_moment(letter.letter_id)}  shard {letter.shard}  "
                  f"{len(letter.sealed)} bytes  {letter.reason}")  # fmt: skip
    return 0


def _show(parsed: argparse.Namespace) -> int:
    with _dead() as dead:
        for letter in dead.asked(parsed):
            print(f"id        {letter.letter_id}")
            print(f"set aside {_moment(letter.letter_id)}")
            print(f"received  {_moment(letter.entry_id)}")
            print(f"shard     {letter.shard}")
            print(f"bytes     {len(letter.sealed)}")
            print(f"reason    {letter.reason}")
            print(f"content   {_content(dead, letter)}")
    return 0


def _replay(parsed: argparse.Namespace) -> int:
    refused = 0
    with _dead() as dead:
        dead.require_ours()
        for letter in dead.asked(parsed):
            if not parsed.even_if_stored and dead.is_forgotten(letter):
                refused += 1
                print(f"{letter.letter_id}: not replayed: {REASON}; --even-if-stored replays it")
                continue
            dead.letters.replay(letter, dead.backlog)
            dead.audit(f"dead letter {letter.letter_id} was replayed")
            print(f"{letter.letter_id}: back in the backlog")
    return 1 if refused else 0


def _drop(parsed: argparse.Namespace) -> int:
    with _dead() as dead:
        dead.require_ours()
        for letter in dead.asked(parsed):
            # Noted first: nothing is deleted without a trace.
            dead.audit(f"dead letter {letter.letter_id} is dropped: {letter.reason}")
            dead.letters.drop(letter)
            print(f"{letter.letter_id}: deleted")
    return 0


def _content(dead: _Dead, letter: DeadLetter) -> str:
    try:
        entry = dead.open(letter)
    except IotError as error:
        return f"can't be opened: {error}"
    return f"{len(entry.readings)} readings of vault {entry.vault_id.hex()}"


def _moment(entry_id: str) -> str:
    try:
        moment = _EPOCH + timedelta(milliseconds=_milliseconds(entry_id))
    except OverflowError:
        return f"after the year 9999 ({entry_id})"
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _milliseconds(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])
