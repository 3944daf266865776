"""Guessing of passwords is slowed down: an address may name so many unknown ones in a minute."""

import logging
from typing import cast

from redis import Redis
from redis.exceptions import RedisError

from iot_models import metrics, names
from iot_models.errors import TooManyRequestsError

WINDOW_SECONDS = 60

_log = logging.getLogger(__name__)


class Guesses:
    """Counts in Redis, so for all pods together. While Redis is away nothing is counted."""

    def __init__(self, client: "Redis", *, limit: int) -> None:
        self._client = client
        self._limit = limit

    def check(self, address: str) -> None:
        """Refuse an address that is over the limit, right password or not.

        Raises:
            TooManyRequestsError: with the seconds until it may try again.
        """
        if not self._limit:
            return
        try:
            count = int(cast("bytes", self._client.get(names.guesses(address)) or b"0"))
            wait = self._client.ttl(names.guesses(address)) if count >= self._limit else 0
        except RedisError as error:
            _log.warning("guesses are not counted, Redis is away: %s", error)
            return
        if count >= self._limit:
            raise TooManyRequestsError(
                "too many unknown passwords from this address", retry_after=max(1, wait)
            )

    def count(self, address: str) -> None:
        """Note an unknown password."""
        metrics.counter("iot_unknown_passwords_total").inc()
        if not self._limit:
            return
        try:
            with self._client.pipeline(transaction=True) as pipeline:
                pipeline.set(names.guesses(address), 0, ex=WINDOW_SECONDS, nx=True)
                pipeline.incr(names.guesses(address))
                pipeline.execute()
        except RedisError as error:
            _log.warning("guesses are not counted, Redis is away: %s", error)
