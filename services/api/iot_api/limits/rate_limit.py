"""Rate limits: how many requests one address and one token may send in a minute.

A process counts in memory, and exchanges its counts with Redis once a second. So a request costs no
round trip, and each process counts a client's requests to the other processes, too, with a delay of
at most two seconds.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import RedisError

from iot_models.errors import Refusal, TooManyRequestsError
from iot_models.names import KeyNames
from iot_stores.store_states import report

from .clients import Client

WINDOW_SECONDS = 60
SETTLE_SECONDS = 1.0
"""Time between two exchanges with Redis: a process adds its counts, and reads the sums."""
STATES = "iot_api.rates"
"""Key in the WSGI environ: a list with a `State` for each limit that applies to the request."""
_LIFE_SECONDS = 2 * WINDOW_SECONDS
_STOP_SECONDS = 2.0
_MAX_COUNTERS = 100_000
"""If a process has more counters than this, it drops all of them and begins with none."""

_log = logging.getLogger(__name__)

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class _Counter:
    shared: int = 0
    """Number of requests that all processes together have counted in Redis, as of the last
    exchange."""
    own: int = 0
    """Requests that this process has counted since the last exchange."""


class State(NamedTuple):
    """The state of one limit of a client."""

    policy: str
    limit: int
    left: int
    """Requests that the client may still send in this minute."""


class RateLimit:
    """Counters of the requests in the current minute, for each address and for each token."""

    def __init__(
        self,
        redis: "Redis",
        names: KeyNames,
        *,
        per_address: int,
        per_token: int,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`per_address` and `per_token`: requests per minute; 0 is no limit.

        `now` returns Unix seconds.
        """
        self._redis = redis
        self._names = names
        self._per_address = per_address
        self._per_token = per_token
        self._now = now
        self._window = 0
        self._counters: dict[tuple[str, str], _Counter] = {}
        self._guard = threading.Lock()
        """Protects the counters, because `settle` runs in its own thread."""

    @property
    def is_on(self) -> bool:
        """Whether there is a limit."""
        return bool(self._per_address or self._per_token)

    def count(self, client: Client, environ: dict[str, Any]) -> None:
        """Count a request, and store the states of its limits in `environ` for `headers`.

        Raises:
            TooManyRequestsError: the client is over a limit. The request is not counted.
        """
        now = self._now()
        policies = self._policies(client)
        with self._guard:
            if now // WINDOW_SECONDS != self._window or len(self._counters) > _MAX_COUNTERS:
                self._window, self._counters = int(now // WINDOW_SECONDS), {}
            counters = [
                self._counters.setdefault((policy, name), _Counter())
                for policy, name, _ in policies
            ]
            left = [
                limit - counter.shared - counter.own
                for counter, (_, _, limit) in zip(counters, policies, strict=True)
            ]
            is_over = any(number <= 0 for number in left)
            if not is_over:
                for counter in counters:
                    counter.own += 1
        environ[STATES] = [
            State(policy, limit, max(0, number if is_over else number - 1))
            for (policy, _, limit), number in zip(policies, left, strict=True)
        ]
        if is_over:
            raise TooManyRequestsError(
                "too many requests in this minute; this request was not processed",
                retry_after=self._seconds_left(now),
                reason=Refusal.RATE,
            )

    def headers(self, environ: dict[str, Any]) -> Headers:
        """Return the rate-limit headers for the response to a request.

        A request to which no limit applied, or for which `count` was not called, gets no headers.
        The syntax is that of draft-ietf-httpapi-ratelimit-headers-10.
        """
        states = cast("list[State] | None", environ.get(STATES))
        if not states:
            return []
        seconds = self._seconds_left(self._now())
        return [
            (
                "RateLimit-Policy",
                ", ".join(f'"{each.policy}";q={each.limit};w={WINDOW_SECONDS}' for each in states),
            ),
            (
                "RateLimit",
                ", ".join(f'"{each.policy}";r={each.left};t={seconds}' for each in states),
            ),
        ]

    def settle(self) -> None:
        """Add the counts of this process to those in Redis, and read the sums.

        Raises:
            RedisError: Redis is away; the counts are added the next time.
        """
        with self._guard:
            window = self._window
            sent = {key: each.own for key, each in self._counters.items() if each.own}
        if not sent:
            return
        with self._redis.pipeline(transaction=False) as pipeline:
            for (policy, name), number in sent.items():
                key = self._names.rate(window, policy, name)
                pipeline.set(key, 0, ex=_LIFE_SECONDS, nx=True)
                pipeline.incrby(key, number)
            answers = pipeline.execute(raise_on_error=False)
        with self._guard:
            if self._window != window:
                return
            for (counted, number), total in zip(sent.items(), answers[1::2], strict=True):
                counter = self._counters.get(counted)
                if counter is not None and isinstance(total, int):
                    counter.own -= number
                    counter.shared = total
        for answer in answers:
            if isinstance(answer, RedisError):
                raise answer

    def _policies(self, client: Client) -> list[tuple[str, str, int]]:
        policies = []
        if self._per_address:
            policies.append(("address", client.address, self._per_address))
        if self._per_token and client.token:
            policies.append(("token", client.token, self._per_token))
        return policies

    @staticmethod
    def _seconds_left(now: float) -> int:
        return max(1, math.ceil(WINDOW_SECONDS - now % WINDOW_SECONDS))


class RateSettler(threading.Thread):
    """A thread that calls `RateLimit.settle`. While Redis is away, each process counts alone."""

    def __init__(self, rates: RateLimit) -> None:
        super().__init__(name="rates", daemon=True)
        self._rates = rates
        self._stopping = threading.Event()

    def run(self) -> None:
        """Exchange counts with Redis once a second until `stop` is called."""
        while not self._stopping.wait(SETTLE_SECONDS):
            try:
                self._rates.settle()
            except Exception as error:  # noqa: BLE001 - the thread must survive any defect
                report(_log, "rate limits do not count requests to other processes", error)

    def stop(self) -> None:
        """End the thread, if it runs."""
        self._stopping.set()
        if self.is_alive():
            self.join(_STOP_SECONDS)
