"""Readings on their way without HTTP: sealed as the API seals them, added at will, read back."""

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
from iot_cipher.envelope import Sealer
from iot_cipher.keyring import KeyringFile
from iot_cipher.vault import OpenVault
from iot_models.entry import Entry
from iot_models.reading import SEPARATOR, Reading, ReadingColumns, int64s
from iot_models.settings import Settings
from iot_stores.backlog import Backlog
from iot_stores.history import ReadFilter
from iot_stores.redis_client import connect_redis
from support.keys import KEYS

SENDER = Client("sender")
Sealed = tuple[int, bytes]
"""A shard and the sealed entry for it."""


@dataclass
class Sender:
    """An API process's way in and out, its steps apart."""

    settings: Settings
    service: Service
    redis: "Redis"
    backlog: Backlog
    sealer: Sealer
    numbers: dict[bytes, int] = field(default_factory=dict)
    """How many readings each password has sent with `send`."""

    def vault(self, password: bytes) -> OpenVault:
        """The password's vault, made if need be."""
        return self.service.vaults.find_or_create(password, SENDER)

    def shard(self, password: bytes) -> int:
        """The shard that takes the password's readings."""
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
        """An entry of readings, all of one interrogator time, that differ in their texts."""
        vault, texts = self.vault(password), list(texts)
        columns = ReadingColumns(
            int64s(list(range(len(texts)))),
            int64s([7] * len(texts)),
            SEPARATOR.join(str(text).encode() for text in texts),
        )
        salt = b"\5" * 16
        moment = int(time.time() * 1000) if sealed_at is None else sealed_at
        entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), moment, columns)
        shard = vault.shard(self.settings.shards) if shard is None else shard
        return shard, (sealer or self.sealer).seal(shard, entry.encode())

    def send(self, password: bytes, count: int = 1) -> None:
        """Seal and add the password's next `count` readings, texts 0, 1, 2, ... on and on."""
        first = self.numbers.get(password, 0)
        self.backlog.append([self.seal(password, range(first, first + count))])
        self.numbers[password] = first + count

    def send_received(self, password: bytes, received: int) -> None:
        """Add the password's next reading as received at a moment, Unix milliseconds."""
        number = self.numbers.get(password, 0)
        shard, sealed = self.seal(password, [number])
        fields: dict[Any, Any] = {"e": sealed, "t": 0}
        self.redis.xadd(KEYS.stream(shard), fields, id=str(received))
        self.numbers[password] = number + 1

    def readings(self, password: bytes) -> list[Reading]:
        """All of a password's readings from Postgres, in order."""
        batches = self.service.readings.select(self.vault(password), ReadFilter())
        return list(chain.from_iterable(batches))

    def texts(self, password: bytes) -> list[str]:
        """Their texts."""
        return [reading.freeform for reading in self.readings(password)]

    def last_seconds(self, password: bytes, seconds: int) -> list[str]:
        """The texts of the last seconds, from wherever the service takes them."""
        batches = self.service.readings.last_seconds(self.vault(password), seconds)
        return [reading.freeform for reading in chain.from_iterable(batches)]

    def waiting(self) -> int:
        """Entries in the backlog."""
        return sum(self.backlog.state().entries.values())

    def check_all(self) -> None:
        """Every reading that was sent is stored, once, in the order of its arrival."""
        for password, count in self.numbers.items():
            readings = self.readings(password)
            assert [reading.freeform for reading in readings] == [str(n) for n in range(count)]
            ids = [reading.id for reading in readings]
            assert ids == sorted(set(ids))


@contextmanager
def sending(settings: Settings) -> Iterator[Sender]:
    """A sender on the stores of some settings."""
    keyring = KeyringFile(Path(settings.keyring_file))
    redis = connect_redis(settings)
    backlog = Backlog(redis, KEYS, shards=settings.shards, max_bytes=settings.backlog_max_bytes)
    service = build_service(settings)
    yield Sender(settings, service, redis, backlog, Sealer(keyring.current))
    service.close()
    redis.close()
