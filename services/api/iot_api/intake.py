"""Intake: from a request's readings to sealed entries in the backlog. Acknowledged is here."""

import os
import time
from collections.abc import Iterator, Sequence

from redis.exceptions import RedisError

from iot_cipher.aead import SALT_BYTES
from iot_cipher.envelope import Sealer
from iot_cipher.vault import OpenVault
from iot_models import metrics
from iot_models.entry import Entry
from iot_models.errors import IotError
from iot_models.reading import SEPARATOR, ReadingColumns
from iot_stores.backlog import Backlog

from .put_body import Batch
from .vaults import Vaults

MAX_READINGS = 10_000
"""Readings in an entry; a larger request becomes several, added in one step all the same."""


class Intake:
    """Takes readings in."""

    def __init__(self, vaults: Vaults, sealer: Sealer, backlog: Backlog, *, shards: int) -> None:
        self._vaults = vaults
        self._sealer = sealer
        self._backlog = backlog
        self._shards = shards
        self._acknowledged = metrics.counter("iot_readings_acknowledged_total")

    def accept(self, batches: Sequence[Batch]) -> int:
        """Take all readings of a request, or none; how many. Once it returns, none of them is
        ever lost or stored twice.

        Raises:
            UnavailableError: the backlog is full; nothing was taken.
            RedisError, psycopg.Error: a part is away. Readings may have been taken when Redis
                broke off after it was sent them; they are then stored at most once.
        """
        vaults = [self._vaults.find_or_create(batch.password) for batch in batches]
        sealed = [
            self._seal(vault, readings)
            for vault, batch in zip(vaults, batches, strict=True)
            for readings in _split(batch.readings)
        ]
        try:
            self._backlog.append(sealed)
        except (RedisError, IotError):
            self._sealer.renew()
            raise
        count = sum(len(batch.readings) for batch in batches)
        self._acknowledged.inc(count)
        return count

    def _seal(self, vault: OpenVault, readings: ReadingColumns) -> tuple[int, bytes]:
        salt = os.urandom(SALT_BYTES)
        sealed_at = int(time.time() * 1000)
        entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), sealed_at, readings)
        shard = vault.shard(self._shards)
        return shard, self._sealer.seal(shard, entry.encode())


def _split(readings: ReadingColumns) -> Iterator[ReadingColumns]:
    if len(readings) <= MAX_READINGS:
        yield readings
        return
    freeform = readings.freeform.split(SEPARATOR)
    for start in range(0, len(readings), MAX_READINGS):
        part = slice(start, start + MAX_READINGS)
        yield ReadingColumns(
            readings.relative[part], readings.interrogator[part], SEPARATOR.join(freeform[part])
        )
