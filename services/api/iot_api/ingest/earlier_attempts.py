"""Find earlier attempts at a request, also if a password of the request has another vault now.

Redis stores a request under its Idempotency-Key and the ids of its vaults. Between two attempts at
a request, one of its vaults may be erased or get another password. The next attempt then creates a
new vault for the old password, so its vault ids differ from those of the first attempt. The first
attempt is found nevertheless, because Redis keeps the id of a password's former vault for a day
(`cached_records.hide_records`).
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, product
from typing import cast

from redis import Redis

from iot_api.vaults.cache import VaultCache
from iot_cipher.encryption import EntryName, OpenVault
from iot_stores.cached_records import former_vaults
from iot_stores.key_deletion import delete_key

from .idempotency import DamagedAnswerError, IdempotencyKey, IdempotencyPolicy, KeyedRequest
from .parser import Batch

MAX_COMBINATIONS = 64
"""Maximum number of combinations of vaults for which `find` looks for an earlier attempt. A
combination has either the former or the present vault of each password. Six passwords that each
have a former vault give 2**6 = 64 combinations."""


@dataclass(frozen=True, slots=True)
class EarlierAttempt:
    """An accepted earlier attempt at a request.

    If a password got a new vault after the earlier attempt, the two attempts have different vaults
    for this password. At least one vault of the earlier attempt is also a vault of the current
    attempt, and at least one is not.
    """

    entries: tuple[EntryName, ...]
    """The earlier attempt's entries."""
    vaults: frozenset[bytes]
    """The ids of the vaults that both attempts have. Their readings are acknowledged already."""
    count: int
    """The number of readings for `vaults` in the current attempt. The earlier attempt had the same
    readings."""
    name: str = ""
    """The Redis key that holds the attempt."""


NO_ATTEMPT = EarlierAttempt((), frozenset(), 0)
"""Stands for no earlier attempt."""


class EarlierAttempts:
    """Finds earlier attempts in Redis."""

    def __init__(self, client: "Redis", cache: VaultCache, policy: IdempotencyPolicy) -> None:
        self._client = client
        self._cache = cache
        self.policy = policy

    def find(
        self,
        key: IdempotencyKey,
        request: KeyedRequest,
        cache_keys: Sequence[bytes],
        vaults: Sequence[OpenVault],
        batches: Sequence[Batch],
    ) -> EarlierAttempt:
        """Return the earlier attempt that has most vaults in common with this one, or `NO_ATTEMPT`.

        That attempt is also the latest, and includes the readings of all attempts before it.

        `batches[n]` has the readings for `vaults[n]`. `cache_keys[n]` is this vault's cache key.

        Raises:
            IdempotencyKeyReusedError: the earlier attempt has other readings for a common vault.
            RedisError: Redis can't serve.
        """
        attempts = {} if len(vaults) == 1 else self._possible(key, cache_keys, vaults)
        if not attempts:
            return NO_ATTEMPT
        answers = cast("list[bytes | None]", self._client.mget(attempts))
        counts: Counter[bytes] = Counter()
        for vault, batch in zip(vaults, batches, strict=True):
            counts[vault.id_bytes] += len(batch.readings.relative)
        best = NO_ATTEMPT
        for (name, earlier), answer in zip(attempts.items(), answers, strict=True):
            if answer is None:
                continue
            with suppress(DamagedAnswerError):
                first = request.decode_attempt(answer, earlier)
                common = frozenset(earlier).intersection(counts)
                if len(common) > len(best.vaults):
                    count = sum(map(counts.__getitem__, common))
                    best = EarlierAttempt(first.entries, common, count, name)
        return best

    def forget(self, request: KeyedRequest, answer: bytes) -> None:
        """Delete an answer to a request from Redis, unless another answer has replaced it."""
        found = cast("list[bytes | None]", self._client.mget(request.names))
        for name, current in zip(request.names, found, strict=True):
            if current == answer:
                delete_key(self._client, name)

    def _possible(
        self, key: IdempotencyKey, cache_keys: Sequence[bytes], vaults: Sequence[OpenVault]
    ) -> dict[str, tuple[bytes, ...]]:
        """Return each Redis key that may hold an earlier attempt, with the attempt's vault ids."""
        found = [self._cache.get(cache_key) for cache_key in cache_keys]
        lookups = [b"" if cached is None else cached.record.lookup for cached in found]
        former = former_vaults(self._client, self.policy.names, lookups)
        ids = [vault.id_bytes for vault in vaults]
        choices = [{was or now: None, now: None} for now, was in zip(ids, former, strict=True)]
        # The first combination has all former vaults, and is the most likely.
        combinations = islice(product(*choices), MAX_COMBINATIONS)
        return {
            name: combination
            for combination in combinations
            if list(combination) != ids and not frozenset(combination).isdisjoint(ids)
            for name in self.policy.names_of(key, combination)
        }
