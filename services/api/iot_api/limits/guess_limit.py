"""The guess limit: how many unknown passwords a client may send in a minute.

A password is unknown if a read finds no vault for it, or a PUT creates one.
"""

import logging
import math
import time
from collections.abc import Callable
from typing import cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from iot_models import metrics
from iot_models.errors import TooManyRequestsError
from iot_models.names import KeyNames
from iot_stores.backlog import Guard
from iot_stores.store_states import report

from .clients import Client

WINDOW_SECONDS = 60
PROXY_FACTOR = 10
"""All clients behind one untrusted proxy together have the limit of this many clients."""
_MAX_NOTED = 10_000

_log = logging.getLogger(__name__)


class GuessLimit:
    """Counters in Redis, shared by all pods. While Redis is away, nothing is counted or refused."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        limit: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._names = names
        self._limit = limit
        self._clock = clock
        self._refused: dict[str, float] = {}
        """Clients that this process has refused, and until when they are over the limit."""
        self._suspects: dict[str, float] = {}
        """Senders of an unknown password to this process, and until when they are suspects."""

    def guards(self, client: Client) -> tuple[Guard, ...]:
        """Return the counters of a client with their limits."""
        if not self._limit:
            return ()
        own = Guard(self._names.guesses(client.name), self._limit)
        if not client.proxy:
            return (own,)
        return (own, Guard(self._names.guesses(client.proxy), PROXY_FACTOR * self._limit))

    def check(self, client: Client) -> None:
        """Refuse a client that is over the limit, whether or not its password is known.

        Raises:
            TooManyRequestsError: the client is over the limit; has the seconds until it may retry.
        """
        self.check_noted(client)
        guards = self.guards(client)
        if not guards:
            return
        try:
            counts = self._client.mget([guard.name for guard in guards])
            for guard, count in zip(guards, cast("list[bytes | None]", counts), strict=True):
                if self._number(guard.name, count) >= guard.limit:
                    raise self.refusal(client, self._client.ttl(guard.name))
        except RedisError as error:
            report(_log, "guesses are not counted", error)

    def check_noted(self, client: Client) -> None:
        """Check a client like `check`, but by earlier refusals of this process, without Redis."""
        until = self._refused.get(client.name)
        if until is None:
            return
        left = until - self._clock()
        if left > 0:
            raise _refusal(left)
        self._refused.pop(client.name, None)

    def refusal(self, client: Client, seconds: float) -> TooManyRequestsError:
        """Return the error for a client that is over the limit for `seconds` more, and note the
        client.

        A counter expires after `WINDOW_SECONDS`. A counter that would live longer is reset: it was
        planted, or the clock of Redis was set back.
        """
        if not 0 <= seconds <= WINDOW_SECONDS:
            self._restart_counters(client)
            seconds = 1
        _note(self._refused, client.name, self._clock() + max(seconds, 0))
        return _refusal(seconds)

    def count(self, client: Client) -> None:
        """Count an unknown password."""
        metrics.counter("iot_unknown_passwords_total").inc()
        _note(self._suspects, client.sender, self._clock() + WINDOW_SECONDS)
        try:
            for guard in self.guards(client):
                with self._client.pipeline(transaction=True) as pipeline:
                    pipeline.set(guard.name, 0, ex=WINDOW_SECONDS, nx=True)
                    pipeline.incr(guard.name)
                    *_, counted = pipeline.execute(raise_on_error=False)
                if _is_no_counter(counted):
                    self._restart(guard.name, "is not a number", count=1)
                elif isinstance(counted, RedisError):
                    raise counted
        except RedisError as error:
            report(_log, "guesses are not counted", error)

    def _number(self, name: str, count: bytes | None) -> int:
        """Return the value of a counter. A counter that is not a number was planted; it is reset,
        because refusing would lock its clients out.
        """
        if count is None or count.isdigit():
            return int(count or b"0")
        self._restart(name, "is not a number", count=0)
        return 0

    def _restart_counters(self, client: Client) -> None:
        try:
            for guard in self.guards(client):
                left = self._client.ttl(guard.name)
                if left == -1 or left > WINDOW_SECONDS:
                    self._restart(guard.name, "would live for longer than a minute", count=0)
        except RedisError as error:
            report(_log, "a guess counter is not reset", error)

    def _restart(self, name: str, why: str, *, count: int) -> None:
        _log.warning("a guess counter in Redis %s; it is reset", why)
        metrics.counter("iot_damaged_total").labels("guesses").inc()
        self._client.set(name, count, ex=WINDOW_SECONDS)

    def suspects(self, client: Client) -> bool:
        """Return whether the sender sent this process an unknown password in the last minute."""
        return self._suspects.get(client.sender, -math.inf) > self._clock()


def _is_no_counter(answer: object) -> bool:
    """Return whether INCR failed because the value is not a number."""
    return isinstance(answer, ResponseError) and (
        "not an integer" in str(answer) or "WRONGTYPE" in str(answer)
    )


def _note(clients: dict[str, float], name: str, until: float) -> None:
    if len(clients) >= _MAX_NOTED:
        clients.clear()  # a cache only: the counters are in Redis
    clients[name] = until


def _refusal(seconds: float) -> TooManyRequestsError:
    return TooManyRequestsError(
        "too many unknown passwords from this address", retry_after=max(1, math.ceil(seconds))
    )
