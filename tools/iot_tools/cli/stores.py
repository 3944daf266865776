"""Redis and Postgres for a command, which gets `UnavailableError` if one of them can't serve."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from iot_cipher.encryption import Opener
from iot_cipher.writer_keys import AuditKeys, WriterKeys, WriterKeysFile
from iot_models.audit_event import AuditEvent
from iot_models.errors import UnavailableError
from iot_models.settings import load
from iot_stores.audit import AuditLog
from iot_stores.postgres import connect_postgres
from iot_stores.store_states import POSTGRES_UNAVAILABLE, state_of
from iot_stores.stores import Stores


class CommandStores(Stores):
    """The stores of one command."""

    def __init__(self, command: str, keys: Callable[[], WriterKeys] | None = None) -> None:
        """Read the settings. Postgres shows `iot-sensor <command>` in pg_stat_activity.

        `keys` returns the keys to use. By default, they are read from the file in IOT_KEYRING_FILE.

        Raises:
            SettingsError: a setting is wrong, or the file with the keys can't be read.
        """
        # No setting names a keyring that is in a Secret.
        settings = load() if keys is None else load({"IOT_KEYRING_FILE": "(none)", **os.environ})
        super().__init__(
            settings, partial(connect_postgres, settings, name=f"iot-sensor {command}")
        )
        keys = keys or WriterKeysFile(Path(settings.keyring_file)).current
        self.opener = Opener(keys)
        self.audit_keys: Callable[[], AuditKeys] = keys
        self._audit_log = AuditLog(keys)

    def audit(self, event: AuditEvent) -> None:
        """Add an event to the audit log."""
        with self.connect() as connection:
            self._audit_log.record(connection, event)


@contextmanager
def open_stores(
    command: str, keys: Callable[[], WriterKeys] | None = None
) -> Iterator[CommandStores]:
    """Open the stores for a command, and close them afterwards. `keys`: see `CommandStores`.

    If the block fails because a store can't serve, raise an `UnavailableError`.

    Raises:
        SettingsError: a setting is wrong, or the file with the keys can't be read.
        UnavailableError: Redis or Postgres can't serve.
    """
    stores = CommandStores(command, keys)
    try:
        yield stores
    except (RedisError, *POSTGRES_UNAVAILABLE) as error:
        state = state_of(error)
        if state is None:
            raise
        raise UnavailableError(str(state)) from None
    finally:
        stores.close()
