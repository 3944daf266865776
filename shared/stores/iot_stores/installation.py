"""The installation that a database belongs to. Redis is marked with the same id.

Both are marked with the keyring too: an API process whose keyring has another pepper finds none of
the vaults, and what it takes in is of no use to others. The mark is derived from the pepper, and
tells nothing about it.
"""

import logging
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import psycopg

from iot_models.errors import SettingsError

from .postgres import AWAY, Connection

KeyringMark = Callable[[uuid.UUID], bytes]
"""The mark of this process's keyring for an installation."""

KEYRING_MISMATCH = (
    "IOT_KEYRING_FILE holds another keyring than the one that {where} was used with, its pepper "
    "differs: take that keyring; or see docs/operations.md, Marks, to use this one from now on"
)

_log = logging.getLogger(__name__)


class Installation:
    """The id in Postgres; asked for once, and again by `refresh`."""

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[Connection]],
        keyring_mark: KeyringMark | None = None,
    ) -> None:
        """`connect` lends a connection, or raises one of `AWAY` in a few seconds.

        A writer has no `keyring_mark`: the pepper is not among its keys.
        """
        self._connect = connect
        self.keyring_mark = keyring_mark
        self._id: uuid.UUID | None = None

    def get_id(self) -> uuid.UUID:
        """The id as it was read last, or read now.

        Raises:
            SettingsError: the database has none, its role may not read it, or the database is
                marked with another keyring.
            AWAY: Postgres can't serve.
        """
        if self._id is not None:
            return self._id
        with self._connect() as connection:
            found = self._read(connection)
        if self._id is None:  # else `refresh` has read it meanwhile, perhaps from another database
            self._id = found
        return self._id

    def refresh(self, connection: Connection) -> bool:
        """Read the id again, since the URL may lead to another database by now; whether it does.

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
                "the role of IOT_POSTGRES_URL may not read the table installation: "
                "run `iot-sensor migrate --grant`"
            ) from None
        except psycopg.errors.UndefinedTable:
            found = None
        if found is None:
            raise SettingsError("the database has no installation id: run `iot-sensor migrate`")
        installation, keyring = cast("tuple[uuid.UUID, bytes | None]", found)
        if self.keyring_mark is not None:
            ours = self.keyring_mark(installation)
            if keyring is None:
                _mark_keyring(connection, ours)
            elif keyring != ours:
                raise SettingsError(KEYRING_MISMATCH.format(where="the database"))
        return installation


def _mark_keyring(connection: Connection, mark: bytes) -> None:
    try:
        connection.execute("UPDATE installation SET keyring = %s WHERE keyring IS NULL", (mark,))
    except AWAY as error:  # read-only, for example: the next one marks it
        _log.warning("the database is not marked with the keyring: %s", error)
