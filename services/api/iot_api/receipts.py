"""Receipts: whether what was acknowledged is stored, for those who want to know."""

import base64
import binascii
import logging
import struct
import time
from collections.abc import Mapping, Sequence

import psycopg
from redis.exceptions import RedisError

from iot_cipher.envelope import EntryName
from iot_models.errors import InvalidRequestError
from iot_stores import ledger
from iot_stores.backlog import Backlog
from iot_stores.postgres import Pool

_NAME = struct.Struct(">H16sQ")
_SOONEST, _LATEST = 0.01, 0.2

_log = logging.getLogger(__name__)


class Receipts:
    """Asks the backlog, which knows when an entry is done with, and the ledger, which knows how."""

    def __init__(self, pool: Pool, backlog: Backlog) -> None:
        self._pool = pool
        self._backlog = backlog

    def stored(self, entries: Sequence[EntryName]) -> bool:
        """Whether all entries are in Postgres. Raises `psycopg.Error` when it is away."""
        if not entries:
            return True
        with self._pool.connection() as connection:
            return ledger.are_stored(connection, entries)

    def wait(self, entries: Sequence[EntryName], ends: Mapping[int, int], seconds: float) -> bool:
        """Wait until entries are stored and can be read; False if they are not in time.

        `ends` tells where they end in the backlog; of a request that is repeated it is not known.
        """
        end = time.monotonic() + seconds
        pause = _SOONEST
        try:
            while not self._done(entries, ends):
                if time.monotonic() + pause > end:
                    break
                time.sleep(pause)
                pause = min(2 * pause, _LATEST)
            return self.stored(entries)
        except (RedisError, psycopg.OperationalError) as error:
            _log.warning("it can't be told whether a request is stored: %s", error)
            return False

    def _done(self, entries: Sequence[EntryName], ends: Mapping[int, int]) -> bool:
        return self._backlog.removed(ends) if ends else self.stored(entries)


def encode_receipt(entries: Sequence[EntryName]) -> str:
    """The names of entries as text for a URL."""
    return base64.urlsafe_b64encode(b"".join(_NAME.pack(*name) for name in entries)).decode()


def decode_receipt(text: str) -> list[EntryName]:
    """The names in such a text. Raises `InvalidRequestError` when it is no such text."""
    try:
        names = base64.b64decode(text, altchars=b"-_", validate=True)
        entries = [EntryName(*fields) for fields in _NAME.iter_unpack(names)]
    except (binascii.Error, struct.error, ValueError):
        entries = []
    if not entries or any(name.shard > 255 or name.number >= 2**63 for name in entries):
        raise InvalidRequestError("this is no receipt of a request")
    return entries
