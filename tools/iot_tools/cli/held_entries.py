"""`iot-sensor held`: list and drop acknowledged entries whose vault is missing in Postgres."""

import argparse
import sys
import uuid

from iot_models.audit_event import AuditKind, audit_event
from iot_models.errors import IotError, SettingsError
from iot_stores import ledger

from .stores import open_stores


def add_held(parser: argparse.ArgumentParser) -> None:
    """Add `held list|drop`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    listing = actions.add_parser("list", help="list the vaults with held entries")
    listing.set_defaults(command=_list)
    drop = actions.add_parser("drop", help="delete the held entries of one vault for good")
    drop.add_argument("vault", help="id of the vault")
    drop.set_defaults(command=_drop)


def _list(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- the signature of all commands
    with open_stores("held") as stores:
        entries_by_vault = stores.held_entries.vaults()
        if not entries_by_vault:
            print("no held entries", file=sys.stderr)
        with stores.connect() as connection:
            present = ledger.existing_vaults(connection, entries_by_vault.keys())
        for vault_id, entries in sorted(entries_by_vault.items()):
            state = "row found, a writer releases them" if vault_id in present else "no row"
            print(f"{vault_id}  {entries} entries  {state}")
        if entries_by_vault.keys() - present:
            print(
                "The API restores a missing row when a device of the vault sends, or from the "
                "vault's record in Redis.\n"
                "Otherwise restore the row of `vaults` from a backup, unless another vault has its "
                "password by now (see the runbook of IotEntriesHeld). A writer then stores the "
                "entries within seconds."
            )
    return 0


def _drop(parsed: argparse.Namespace) -> int:
    try:
        vault_id = uuid.UUID(parsed.vault)
    except ValueError:
        raise SettingsError(
            f"{parsed.vault!r} is not the id of a vault: `iot-sensor held list` shows the ids"
        ) from None
    with open_stores("held") as stores:
        stores.require_ownership()
        if vault_id not in stores.held_entries.vaults():
            raise IotError(f"vault {vault_id} has no held entries")
        # Recorded before the deletion: nothing is deleted without a trace.
        stores.audit(audit_event(AuditKind.HELD_ENTRIES_DROPPED, vault=str(vault_id)))
        print(f"{vault_id}: {stores.held_entries.drop(vault_id)} entries deleted")
    return 0
