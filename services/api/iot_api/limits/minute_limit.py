"""A limit on a client's events per minute, counted in Redis for all pods."""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar, cast

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from iot_models import metrics
from iot_models.errors import Refusal, TooManyRequestsError
from iot_stores.append_conditions import Guard
from iot_stores.backlog_counters import parse_digits
from iot_stores.store_states import report

from .clients import Client

WINDOW_SECONDS = 60
WIDE_FACTOR = 10
"""The limit that a group of clients (`Client.wide_names`) shares, as a multiple of one client's."""
_MAX_NOTED = 10_000

Name = TypeVar("Name")
Noted = TypeVar("Noted")

_log = logging.getLogger(__name__)


class MinuteLimit:
    """Counters in Redis, shared by all pods.

    While Redis is away, nothing is counted. Then each process refuses only the clients that it
    knows to be over the limit.
    """

    def __init__(
        self,
        redis: "Redis",
        name_of: Callable[[str], str],
        *,
        limit: int,
        sentence: str,
        reason: Refusal,
    ) -> None:
        """`name_of` returns the Redis key of the counter for the name of a client or of a group of
        clients (`Client.wide_names`). A `limit` of 0 is no limit.

        `sentence` and `reason` are the message and the reason of each refusal.
        """
        self._redis = redis
        self._name_of = name_of
        self._limit = limit
        self._sentence = sentence
        self._reason = reason
        self._refused: dict[str, float] = {}
        """For each client that this process has refused: until when it is over the limit."""
        self._reached: dict[str, tuple[float, float]] = {}
        """For each client that reached the limit with an event in this process: the time of this
        event, and until when the client is over the limit."""

    @property
    def is_on(self) -> bool:
        """Whether there is a limit."""
        return self._limit > 0

    def guards(self, client: Client) -> tuple[Guard, ...]:
        """Return the counters in Redis of the client and of its groups, each with its limit.

        Empty if there is no limit.
        """
        if not self.is_on:
            return ()
        own = Guard(self._name_of(client.name), self._limit)
        wide = WIDE_FACTOR * self._limit
        return (own, *[Guard(self._name_of(name), wide) for name in client.wide_names])

    def check(self, client: Client) -> None:
        """Refuse a client that is over the limit.

        Raises:
            TooManyRequestsError: the client is over the limit. `retry_after`: seconds to wait.
        """
        self.check_noted(client)
        guards = self.guards(client)
        if not guards:
            return
        try:
            counts = self._redis.mget([guard.name for guard in guards])
            for guard, count in zip(guards, cast("list[bytes | None]", counts), strict=True):
                if self._number(guard.name, count) >= guard.limit:
                    raise self.refusal(client, self._redis.ttl(guard.name))
        except RedisError as error:
            report(_log, "unknown passwords are not counted", error)

    def check_noted(self, client: Client) -> None:
        """Refuse a client that this process has refused before and that is still over the limit.

        Unlike `check`, this does not ask Redis.
        """
        until = self._refused.get(client.name)
        if until is None:
            return
        left = until - time.monotonic()
        if left > 0:
            raise self._error(left)
        self._refused.pop(client.name, None)

    def check_waiting(self, client: Client, since: float) -> None:
        """Refuse a client that has reached the limit while its request waited.

        The request passed `check` at the time `since`. Another request of the client may have
        reached the limit after `since`. Redis is not asked, so only the events and refusals of this
        process count.

        Raises:
            TooManyRequestsError: the client is over the limit.
        """
        self.check_noted(client)
        reached, until = self._reached.get(client.name, (-math.inf, 0.0))
        if reached >= since and until > time.monotonic():
            raise self._error(until - time.monotonic())

    def refusal(self, client: Client, seconds: float) -> TooManyRequestsError:
        """Return the error for a client that stays over the limit for `seconds`.

        During this time, this process refuses the client without asking Redis.

        `seconds` is the remaining lifetime of a counter, as Redis returned it. It is negative if
        the counter has just expired, or never expires because another program has written it. It
        exceeds `WINDOW_SECONDS` if another program has written the counter, or if the clock of
        Redis was set back. In all these cases, refuse the client for 1 s only, and reset the
        client's counters that never expire or would live longer than `WINDOW_SECONDS`.
        """
        if not 0 <= seconds <= WINDOW_SECONDS:
            self._restart_counters(client)
            seconds = 1
        note(self._refused, client.name, time.monotonic() + max(seconds, 0))
        return self._error(seconds)

    def count(self, client: Client) -> None:
        """Count an event of a client, in the counters of the client and of its groups."""
        try:
            for guard in self.guards(client):
                with self._redis.pipeline(transaction=True) as pipeline:
                    pipeline.set(guard.name, 0, ex=WINDOW_SECONDS, nx=True)
                    pipeline.incr(guard.name)
                    pipeline.ttl(guard.name)
                    *_, counted, left = pipeline.execute(raise_on_error=False)
                if _is_no_counter(counted):
                    self._restart(guard.name, "is not a number", count=1)
                elif isinstance(counted, RedisError):
                    raise counted
                elif counted >= guard.limit and 0 <= left <= WINDOW_SECONDS:
                    now = time.monotonic()
                    note(self._reached, client.name, (now, now + left))
        except RedisError as error:
            report(_log, "unknown passwords are not counted", error)

    def _number(self, name: str, count: bytes | None) -> int:
        """Return the number in `count`, the value of the Redis key `name`; 0 if the key is missing.

        If the value is not a number, another program has written it. Then set the key to 0 and
        return 0, so that the value locks no client out.
        """
        number = parse_digits(b"0" if count is None else count)
        if number is None:
            self._restart(name, "is not a number", count=0)
        return number or 0

    def _restart_counters(self, client: Client) -> None:
        try:
            for guard in self.guards(client):
                left = self._redis.ttl(guard.name)
                if left == -1 or left > WINDOW_SECONDS:
                    self._restart(guard.name, "would live for longer than a minute", count=0)
        except RedisError as error:
            report(_log, "a counter of the guess limit is not reset", error)

    def _restart(self, name: str, why: str, *, count: int) -> None:
        _log.warning("a counter of the guess limit in Redis %s; this process resets it", why)
        metrics.counter("iot_damaged_total").labels("guesses").inc()
        self._redis.set(name, count, ex=WINDOW_SECONDS)

    def _error(self, seconds: float) -> TooManyRequestsError:
        retry_after = max(1, math.ceil(seconds))
        return TooManyRequestsError(self._sentence, retry_after=retry_after, reason=self._reason)


def note(notes: dict[Name, Noted], name: Name, noted: Noted) -> None:
    """Store `noted` in `notes` under `name`. If `notes` is full, empty it first.

    For example, `name` is the name of a client, and `noted` is the time until which this process
    refuses the client. Emptying `notes` loses no count, because the counters are in Redis.
    """
    if len(notes) >= _MAX_NOTED:
        notes.clear()
    notes[name] = noted


def _is_no_counter(answer: object) -> bool:
    """Return whether INCR failed because the value is not a number."""
    return isinstance(answer, ResponseError) and (
        "not an integer" in str(answer) or "WRONGTYPE" in str(answer)
    )
