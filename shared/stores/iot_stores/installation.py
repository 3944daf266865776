"""The id of the installation that a database belongs to. Redis is marked with the same id.

Both stores also hold a mark of the keyring, derived one-way from its pepper. An API process with
another pepper would find no vault, and would create vaults that no other process finds.
"""

import logging
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import psycopg

from iot_models.errors import SettingsError

from .postgres import Connection
from .store_states import POSTGRES_UNAVAILABLE

KeyringMark = Callable[[uuid.UUID], bytes]
"""Returns the mark of this process's keyring for an installation id."""

KEYRING_MISMATCH = (
    "the keyring of this process has another pepper than the keyring that {where} is marked with: "
    "use that keyring, or change the mark (see Marks in docs/stores.md)"
)

_log = logging.getLogger(__name__)


class Installation:
    """The installation id in Postgres: read once, and again by `refresh`."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        keyring_mark: KeyringMark | None = None,
        *,
        marks_keyring: bool = True,
    ) -> None:
        """`connect` opens a connection, or raises one of `POSTGRES_UNAVAILABLE` within seconds.

        Writers pass no `keyring_mark`, because they do not have the pepper. `marks_keyring`:
        whether to store the mark in stores that lack it.
        """
        self._connect = connect
        self.keyring_mark = keyring_mark
        self.marks_keyring = marks_keyring
        self._id: uuid.UUID | None = None

    def get_id(self) -> uuid.UUID:
        """Return the id that was read last. If none was read yet, read it now.

        Raises:
            SettingsError: the database has no id, does not let this process read the id, or has the
                mark of another keyring.
            POSTGRES_UNAVAILABLE: Postgres can't serve.
        """
        if self._id is not None:
            return self._id
        with self._connect() as connection:
            found = self._read(connection)
        # `refresh` may have read an id meanwhile, perhaps from another database: that id is newer.
        if self._id is None:
            self._id = found
        return self._id

    def refresh(self, connection: Connection) -> bool:
        """Read the id again. Return True if it differs from the id that was read before.

        True means that the URL of Postgres leads to another database now. Return False if no id was
        read before.

        Raises:
            SettingsError: as `get_id`.
        """
        before, self._id = self._id, self._read(connection)
        return before not in {None, self._id}

    def _read(self, connection: Connection) -> uuid.UUID:
        try:
            found = connection.execute("SELECT id, keyring FROM installation").fetchone()
        except psycopg.errors.InsufficientPrivilege:
            raise SettingsError(
                "the role in IOT_POSTGRES_URL has no right to read the table installation: "
                "run `iot-sensor migrate --grant`"
            ) from None
        except psycopg.errors.UndefinedTable:
            found = None
        if found is None:
            raise SettingsError("the database has no installation id: run `iot-sensor migrate`")
        installation, keyring = cast("tuple[uuid.UUID, bytes | None]", found)
        if self.keyring_mark is not None:
            own_mark = self.keyring_mark(installation)
            if keyring is None:
                if self.marks_keyring:
                    _mark_keyring(connection, own_mark)
            elif keyring != own_mark:
                raise SettingsError(KEYRING_MISMATCH.format(where="the database"))
        return installation


def _mark_keyring(connection: Connection, mark: bytes) -> None:
    try:
        connection.execute("UPDATE installation SET keyring = %s WHERE keyring IS NULL", (mark,))
    except POSTGRES_UNAVAILABLE as error:
        # For example, the server is read-only. The next process stores the mark.
        _log.warning("could not store the mark of the keyring in the database: %s", error)
