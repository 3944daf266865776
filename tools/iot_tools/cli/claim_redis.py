"""`iot-sensor claim-redis`: replace the mark of Redis with the mark of this installation."""

import argparse

from redis import Redis

from iot_models.audit_event import AuditKind, audit_event
from iot_models.logs import printable
from iot_models.names import KeyNames
from iot_stores.scripts import checked, round_trip
from iot_stores.store_states import is_wrong_type

from .stores import open_stores


def add_claim(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `claim-redis`."""
    parser.set_defaults(command=_claim)


def _claim(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- the signature of all commands
    with open_stores("claim-redis") as stores:
        installation = str(stores.installation.get_id())
        clients = {stores.redis: "Redis"}
        clients.setdefault(stores.hot_redis, "The hot window's Redis")
        for client, name in clients.items():
            owner = _owner(client, stores.names)
            event = audit_event(
                AuditKind.REDIS_CLAIMED, owner=owner or "nobody", installation=installation
            )
            stores.audit(event)
            # An API process writes the mark of its keyring again.
            client.set(stores.names.owner, installation)
            client.set(stores.names.owner_keyring, "")
            if owner == installation:
                print(f"{name} already belongs to installation {installation}")
            else:
                before = owner or "nobody"
                print(f"{name} belonged to {before}; it belongs to installation {installation} now")
    return 0


def _owner(client: "Redis", names: KeyNames) -> str:
    # The writers' user of Redis may not use MGET, which would return None for another type.
    (mark,) = round_trip(client, [("GET", names.owner)])
    if is_wrong_type(mark):
        return ""
    (known,) = checked([mark])
    return printable((known or b"").decode(errors="replace"))
