"""`iot-sensor held`: acknowledged entries that wait for a vault that Postgres does not have."""

import argparse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis

from iot_cipher.writer_keys import WriterKeysFile
from iot_models.errors import IotError, SettingsError
from iot_models.names import KeyNames
from iot_models.settings import Settings, load
from iot_stores import ledger
from iot_stores.audit import AuditLog
from iot_stores.held_entries import HeldEntries
from iot_stores.postgres import Connection, connect_postgres
from iot_stores.redis_client import connect_redis

from .dead_letters import Subparsers, require_ours
from .store_errors import naming_states


def add_held(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `held list|drop` to the command."""
    parser = commands.add_parser("held", help="entries whose vaults Postgres does not have")
    actions = parser.add_subparsers(required=True, metavar="action")
    listing = actions.add_parser("list", help="every vault with held entries, and what to do")
    listing.set_defaults(command=_list)
    drop = actions.add_parser("drop", help="delete the entries of a vault for good")
    drop.add_argument("vault", help="its id")
    drop.set_defaults(command=_drop)


@contextmanager
def _stores() -> Iterator[tuple["Redis", Connection, Settings]]:
    settings = load()
    with (
        naming_states(),
        connect_redis(settings) as redis,
        connect_postgres(settings, name="iot-sensor held") as connection,
    ):
        yield redis, connection, settings


def _held(redis: "Redis", settings: Settings) -> HeldEntries:
    return HeldEntries(redis, KeyNames(settings.redis_key_prefix))


def _list(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- as every command
    with _stores() as (redis, connection, settings):
        vaults = _held(redis, settings).vaults()
        there = ledger.existing_vaults(connection, vaults.keys())
        for vault_id, entries in sorted(vaults.items()):
            state = "its row is there, a writer releases them" if vault_id in there else "no row"
            print(f"{vault_id}  {entries} entries  {state}")
        if vaults.keys() - there:
            print(
                "The API puts a row back when a device sends, or when Redis has the record.\n"
                "Otherwise restore the row of `vaults` from a backup: a writer then stores the "
                "entries within seconds."
            )
    return 0


def _drop(parsed: argparse.Namespace) -> int:
    try:
        vault_id = uuid.UUID(parsed.vault)
    except ValueError:
        raise SettingsError(f"{parsed.vault!r} is not the id of a vault") from None
    with _stores() as (redis, connection, settings):
        require_ours(redis, settings)
        held = _held(redis, settings)
        if vault_id not in held.vaults():
            raise IotError(f"no entries are held of vault {vault_id}")
        # Noted first: nothing is deleted without a trace.
        audit = AuditLog(WriterKeysFile(Path(settings.keyring_file)).current)
        audit.record(connection, f"the held entries of vault {vault_id} are dropped")
        print(f"{vault_id}: {held.drop(vault_id)} entries deleted")
    return 0
