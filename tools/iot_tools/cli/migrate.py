"""`iot-sensor migrate`: wait for Postgres, then migrate the database schema."""

import argparse
import logging
import re
import sys
import time

import psycopg
from psycopg.conninfo import make_conninfo

from iot_models import settings
from iot_models.errors import UnavailableError
from iot_stores.postgres import url_parts
from iot_writer import schema

from .shutdown_signals import ShutdownRequested, ShutdownSignals

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 5
_PAUSE = 0.5
_LOG_SECONDS = 5.0


def run(parsed: argparse.Namespace) -> int:
    """Migrate the schema. Return the exit status.

    If a signal interrupts the migration, the schema is unchanged or up to date.
    """
    url = settings.load_one("postgres_url")
    server = PostgresAt(url)
    try:
        with ShutdownSignals(interrupt=True):
            end = time.monotonic() + parsed.wait
            server.wait(parsed.wait)
            _migrate(server, grant=parsed.grant, wait=max(0.0, end - time.monotonic()))
    except ShutdownRequested as request:
        print(f"ended by {request}; run the command again", file=sys.stderr)
        return request.code
    _log.info("the schema is up to date")
    return 0


def _migrate(server: "PostgresAt", *, grant: bool, wait: float) -> None:
    try:
        schema.migrate(server.conninfo, grant=grant, wait=wait)
    except schema.LOCKED:
        raise UnavailableError(
            f"Postgres at {server.where}: another transaction, for example of pg_dump, locks a "
            "table that the migration changes, or another migration runs. Nothing was changed: run "
            "the command again when the transaction has ended, or with a longer --wait"
        ) from None
    except psycopg.Error as error:
        raise UnavailableError(
            f"Postgres at {server.where} refused the migration, and nothing was changed: "
            f"{server.message(error)}"
        ) from None


class PostgresAt:
    """A Postgres server. Its password appears neither in raised errors nor in `message`."""

    def __init__(self, url: str) -> None:
        """Raises `SettingsError` when the URL is invalid. The message does not contain the URL."""
        self.conninfo, self.where, self._password = _read(url)

    def wait(self, seconds: float) -> None:
        """Wait until the server accepts connections.

        Raises:
            UnavailableError: the server accepted no connection in time. The message says why.
        """
        began = logged_at = time.monotonic()
        while True:
            try:
                psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError as error:
                reason = self.message(error)
            else:
                return
            now = time.monotonic()
            if now + _PAUSE > began + seconds:
                raise UnavailableError(
                    f"can't connect to Postgres at {self.where} (tried for {seconds:g} s): {reason}"
                )
            if now >= logged_at:
                _log.info("waiting for Postgres at %s: %s", self.where, reason)
                logged_at = now + _LOG_SECONDS
            time.sleep(_PAUSE)

    def message(self, error: BaseException) -> str:
        """Return the message of an error in one line, without the password."""
        line = re.sub(r"\s+", " ", str(error)).strip()
        return line.replace(self._password, "***") if self._password else line


def _read(url: str) -> tuple[str, str, str]:
    """Return three texts: the conninfo with a connect timeout, the server, and its password.

    The server is written as `host:port/database`.
    """
    parts = url_parts(url)
    port, database = parts.get("port") or "5432", parts.get("dbname") or parts.get("user") or ""
    where = f"{parts.get('host') or 'localhost'}:{port}/{database}"
    timed = {"connect_timeout": _CONNECT_SECONDS, **parts}
    return make_conninfo("", **timed), where, str(parts.get("password") or "")
