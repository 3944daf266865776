"""Redis and Postgres for a command. `UnavailableError` says that one of them can't serve."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from redis.exceptions import RedisError

from iot_cipher.encryption import Opener
from iot_cipher.keyring import Keyring, parse_keyring
from iot_cipher.writer_keys import AuditKeys, WriterKeys, WriterKeysFile, derive_writer_keys
from iot_models.audit_event import AuditEvent
from iot_models.errors import UnavailableError
from iot_models.settings import load
from iot_models.text_files import read_text
from iot_stores.audit import AuditLog
from iot_stores.postgres import connect_postgres
from iot_stores.store_states import POSTGRES_UNAVAILABLE, state_of
from iot_stores.stores import Stores


class CommandStores(Stores):
    """The stores of one command."""

    def __init__(self, command: str, keyring: Callable[[], Keyring] | None = None) -> None:
        """Read the settings. Postgres shows `iot-sensor <command>` in pg_stat_activity.

        `keyring` returns the keyring to use. By default, the keys are read from the file in
        IOT_KEYRING_FILE, which may hold only a writer's keys.

        Raises:
            SettingsError: a setting is wrong, or the file with the keys can't be read.
        """
        # No setting names a keyring that is in a Secret.
        settings = load() if keyring is None else load({"IOT_KEYRING_FILE": "(none)", **os.environ})
        if keyring is None:
            path = Path(settings.keyring_file)
            keys = WriterKeysFile(path).current
            if keys().from_keyring:
                keyring = partial(_read_keyring, path)
        else:
            keys = partial(_derive_keys, keyring)
        super().__init__(
            settings,
            partial(connect_postgres, settings, name=f"iot-sensor {command}"),
            keyring_mark=keyring and partial(_mark, keyring),
            # The keyring of a command may be the wrong one: only API processes store its mark.
            marks_keyring=False,
        )
        self.opener = Opener(keys)
        self.audit_keys: Callable[[], AuditKeys] = keys
        self._audit_log = AuditLog(keys)

    def require_ownership(self) -> None:
        """Raise unless Redis and the keyring belong to the installation of the database.

        The writers' keys have no mark, so wrong keys are not noticed.

        Raises:
            SettingsError: the database has the mark of another keyring, or no id.
            UnfitRedisError: Redis belongs to another installation.
            RedisError, psycopg.Error: a store is away.
        """
        self.installation.get_id()
        self.watch.require_ownership()

    def audit(self, event: AuditEvent) -> None:
        """Add an event to the audit log.

        Raises:
            SettingsError: the database has the mark of another keyring, so its operators could
                never decrypt the record.
        """
        self.installation.get_id()
        with self.connect() as connection:
            self._audit_log.record(connection, event)


@contextmanager
def open_stores(
    command: str, keyring: Callable[[], Keyring] | None = None
) -> Iterator[CommandStores]:
    """Open the stores for a command, and close them afterwards. `keyring`: see `CommandStores`.

    If the block fails because a store can't serve, raise an `UnavailableError`.

    Raises:
        SettingsError: a setting is wrong, or the file with the keys can't be read.
        UnavailableError: Redis or Postgres can't serve.
    """
    stores = CommandStores(command, keyring)
    try:
        yield stores
    except (RedisError, *POSTGRES_UNAVAILABLE) as error:
        state = state_of(error)
        if state is None:
            raise
        raise UnavailableError(str(state)) from None
    finally:
        stores.close()


def _read_keyring(path: Path) -> Keyring:
    return parse_keyring(read_text(path))


def _derive_keys(keyring: Callable[[], Keyring]) -> WriterKeys:
    return derive_writer_keys(keyring())


def _mark(keyring: Callable[[], Keyring], installation: uuid.UUID) -> bytes:
    return keyring().mark(installation)
