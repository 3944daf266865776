"""`iot-sensor claim-redis`: mark Redis as this installation's, whosever it was."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from redis import Redis

from iot_cipher.writer_keys import WriterKeysFile
from iot_models.names import KeyNames
from iot_models.settings import load
from iot_stores.audit import AuditLog
from iot_stores.installation import Installation
from iot_stores.postgres import connect_postgres
from iot_stores.redis_client import connect_hot_window, connect_redis

from .dead_letters import Subparsers
from .store_errors import naming_states


def add_claim(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `claim-redis` to the command."""
    parser = commands.add_parser(
        "claim-redis",
        help="mark Redis as belonging to this database: after a restore, not beside another "
        "release that uses it",
    )
    parser.set_defaults(command=_claim)


def _claim(parsed: argparse.Namespace) -> int:  # noqa: ARG001 -- as every command
    settings = load()
    names = KeyNames(settings.redis_key_prefix)
    keys = WriterKeysFile(Path(settings.keyring_file))
    redis = connect_redis(settings)
    hot_redis = connect_hot_window(settings, redis)
    try:
        with (
            naming_states(),
            connect_postgres(settings, name="iot-sensor claim-redis") as connection,
        ):
            installation = Installation(lambda: nullcontext(connection))
            ours = str(installation.get_id())
            for client in dict.fromkeys((redis, hot_redis)):
                before = _owner(client, names)
                AuditLog(keys.current).record(
                    connection, f"a Redis of {before or 'nobody'} is marked as that of {ours}"
                )
                # The API marks it with its keyring again.
                client.set(names.owner, ours)
                client.set(names.owner_keyring, "")
                print(f"Redis belonged to {before or 'nobody'}; it belongs to {ours} now")
    finally:
        redis.close()
        hot_redis.close()
    return 0


def _owner(client: "Redis", names: KeyNames) -> str:
    held = client.get(names.owner)
    return held.decode(errors="replace") if isinstance(held, bytes) else ""
