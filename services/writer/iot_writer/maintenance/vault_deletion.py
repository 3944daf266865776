"""Deletion of erased vaults: their segments, hot window and dead letters."""

import logging
import time
import uuid
from collections.abc import Sequence
from typing import LiteralString

import psycopg
from redis.exceptions import RedisError

from iot_cipher.encryption import Opener, decode_entry
from iot_models import metrics
from iot_models.errors import IotError
from iot_stores import erasures
from iot_stores.dead_letters import DeadLetter, DeadLetters
from iot_stores.erasures import UnfinishedErasure
from iot_stores.hot_window import HotWindow
from iot_stores.postgres import Connection

from .partitions import partition_begins, partition_name

RUN_SECONDS = 1.0
"""Time after which a run ends, so that drains need not wait for a large vault."""
PAUSE_SECONDS = 10.0
"""Pause after an error of Redis. If the hot window has its own Redis, each attempt may block the
writer for several seconds."""
_VAULTS = 100
"""Maximum number of vaults in one run."""
# Delete one month at a time, by the physical places of the rows. A join with a list of segments
# could scan all segments of the vault for each batch.
_DELETE: LiteralString = """
    DELETE FROM ONLY {table} WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM ONLY {table} WHERE vault_id = %s LIMIT 200
    ))
"""

_log = logging.getLogger(__name__)


class VaultDeletion:
    """Deletes the data of each erased vault twice.

    The first deletion runs immediately. A slow process may add data afterwards, so the second runs
    when no process can add data any more. Both can be repeated, so a writer may be killed at any
    point.
    """

    def __init__(self, hot_window: HotWindow, dead_letters: DeadLetters, opener: Opener) -> None:
        self._hot_window = hot_window
        self._dead_letters = dead_letters
        self._opener = opener
        self._paused_until = 0.0

    def run(self, connection: Connection) -> bool:
        """Delete for about `RUN_SECONDS`. Return whether more deletions may be due now.

        For `PAUSE_SECONDS` after an error of Redis, do nothing and return False.

        Raises:
            psycopg.Error, RedisError: a store is away; a later run continues.
        """
        begin = time.monotonic()
        if begin < self._paused_until:
            return False
        due = erasures.unfinished(connection, _VAULTS)
        done = self._without_segments(connection, due, begin + RUN_SECONDS)
        if not done:
            return bool(due)
        try:
            # After the segments, because the hot window's Redis may be away.
            for erasure in done:
                self._hot_window.forget(erasure.vault_id)
            self._drop_dead_letters({erasure.vault_id for erasure in done})
        except RedisError:
            self._paused_until = time.monotonic() + PAUSE_SECONDS
            raise
        for erasure in done:
            _note(connection, erasure)
        return len(done) < len(due) or len(due) == _VAULTS

    def _without_segments(
        self, connection: Connection, due: Sequence[UnfinishedErasure], until: float
    ) -> list[UnfinishedErasure]:
        """Delete the segments of vaults, one after the other, until the time `until`.

        Return the erasures whose vaults have no segments left.
        """
        done: list[UnfinishedErasure] = []
        for erasure in due:
            # The first vault is always tried, so each run makes progress.
            if done and time.monotonic() >= until:
                break
            if not self._delete_segments(connection, erasure.vault_id, until):
                break
            done.append(erasure)
        return done

    def _delete_segments(self, connection: Connection, vault_id: uuid.UUID, until: float) -> bool:
        """Delete all segments of a vault. Return False if `until` (`time.monotonic`) came first."""
        for begin in partition_begins(connection):
            table = psycopg.sql.Identifier(partition_name(begin))
            statement = psycopg.sql.SQL(_DELETE).format(table=table)
            while connection.execute(statement, (vault_id,)).rowcount:
                if time.monotonic() >= until:
                    return False
        return True

    def _drop_dead_letters(self, vaults: set[uuid.UUID]) -> None:
        for letter in self._dead_letters.all():
            if self._vault_of(letter) in vaults:
                self._dead_letters.drop(letter)
                _log.info("deleted dead letter %s: its vault was erased", letter.letter_id)

    def _vault_of(self, letter: DeadLetter) -> uuid.UUID | None:
        """Return the vault of a dead letter; None if the letter can't be opened."""
        try:
            entry = decode_entry(self._opener.open(letter.shard, letter.sealed).content)
        except IotError:
            return None
        return uuid.UUID(bytes=entry.vault_id)


def _note(connection: Connection, erasure: UnfinishedErasure) -> None:
    if erasure.noted:
        erasures.finish(connection, erasure.vault_id)
    elif erasures.note(connection, erasure.vault_id):
        metrics.counter("iot_vaults_erased_total").inc()
        _log.info("deleted all segments of vault %s, which was erased", erasure.vault_id)
