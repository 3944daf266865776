"""A sender without HTTP: it seals entries as the API does, appends them and reads them back."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from redis import Redis

from iot_api.limits.clients import Client
from iot_api.service import Service, build_service
from iot_cipher.encryption import Entry, OpenVault, Sealer
from iot_cipher.keyring import KeyringFile
from iot_models.reading import Reading
from iot_models.settings import Settings
from iot_stores.backlog import Backlog
from iot_stores.history import ReadFilter
from iot_stores.redis_client import connect_redis
from support.keys import KEYS
from support.segment_rows import reading_columns

SENDER = Client("sender")
Sealed = tuple[int, bytes]
"""A shard and a sealed entry."""


@dataclass
class Sender:
    """The write and read paths of an API process, as separate steps."""

    settings: Settings
    service: Service
    redis: "Redis"
    backlog: Backlog
    sealer: Sealer
    numbers: dict[bytes, int] = field(default_factory=dict)
    """Number of readings that `send` has sent, by password."""

    def vault(self, password: bytes) -> OpenVault:
        """Return the vault of a password; create the vault if it does not exist."""
        return self.service.vaults.find_or_create(password, SENDER)

    def shard(self, password: bytes) -> int:
        """Return the shard of a password."""
        return self.vault(password).shard(self.settings.shards)

    def seal(
        self,
        password: bytes,
        texts: Iterable[object],
        *,
        sealer: Sealer | None = None,
        shard: int | None = None,
        sealed_at: int | None = None,
    ) -> Sealed:
        """Return an entry of readings with one interrogator timestamp and the given texts."""
        vault = self.vault(password)
        columns = reading_columns(
            (number, 7, str(text).encode()) for number, text in enumerate(texts)
        )
        salt = b"\5" * 16
        moment = int(time.time() * 1000) if sealed_at is None else sealed_at
        entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), moment, columns)
        shard = vault.shard(self.settings.shards) if shard is None else shard
        return shard, (sealer or self.sealer).seal(shard, entry.encode())

    def send(self, password: bytes, count: int = 1) -> None:
        """Append the next `count` readings of the password; their texts count up from 0."""
        first = self.numbers.get(password, 0)
        self.backlog.append([self.seal(password, range(first, first + count))])
        self.numbers[password] = first + count

    def send_received(self, password: bytes, received: int) -> None:
        """Append the next reading of the password with a time of receipt in Unix milliseconds."""
        number = self.numbers.get(password, 0)
        shard, sealed = self.seal(password, [number])
        fields: dict[Any, Any] = {"e": sealed, "t": 0}
        self.redis.xadd(KEYS.stream(shard), fields, id=str(received))
        self.numbers[password] = number + 1

    def readings(self, password: bytes) -> list[Reading]:
        """Return all readings of a password from Postgres, in order."""
        batches = self.service.readings.select(self.vault(password), ReadFilter())
        return list(chain.from_iterable(batches))

    def texts(self, password: bytes) -> list[str]:
        """Return the texts of all readings of a password."""
        return [reading.freeform for reading in self.readings(password)]

    def last_seconds(self, password: bytes, seconds: int) -> list[str]:
        """Return the texts of the last seconds, read as the service reads them."""
        batches = self.service.readings.last_seconds(self.vault(password), seconds)
        return [reading.freeform for reading in chain.from_iterable(batches)]

    def waiting(self) -> int:
        """Return the number of entries in the backlog."""
        return sum(self.backlog.state().entries.values())

    def check_all(self) -> None:
        """Check that each reading sent is stored once, in order of arrival."""
        for password, count in self.numbers.items():
            readings = self.readings(password)
            assert [reading.freeform for reading in readings] == [str(n) for n in range(count)]
            ids = [reading.id for reading in readings]
            assert ids == sorted(set(ids))


@contextmanager
def sending(settings: Settings) -> Iterator[Sender]:
    """Yield a sender on the stores of the settings."""
    keyring = KeyringFile(Path(settings.keyring_file))
    redis = connect_redis(settings)
    backlog = Backlog(redis, KEYS, shards=settings.shards, max_bytes=settings.backlog_max_bytes)
    service = build_service(settings)
    yield Sender(settings, service, redis, backlog, Sealer(keyring))
    service.close()
    redis.close()
