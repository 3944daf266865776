"""The connection to Redis."""

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own, wider than the builtin
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TimeoutError,  # noqa: A004
)
from redis.retry import Retry

from iot_models.settings import Settings

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 3.0

_AWAY = (ConnectionError, TimeoutError, BusyLoadingError, ReadOnlyError, OutOfMemoryError)


def connect_redis(settings: Settings) -> "Redis":
    """A client with a pool of its own; connects at the first command.

    A command whose connection breaks is sent again, twice within a second. Everything that is
    sent through it can bear that: see `backlog.Backlog.append`.
    """
    return Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=CONNECT_SECONDS,
        socket_timeout=ANSWER_SECONDS,
        health_check_interval=30,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=2),
        retry_on_error=[BusyLoadingError],
    )


def is_away(error: RedisError) -> bool:
    """Whether Redis can't serve now (gone, loading, full, a replica): no defect of ours."""
    return isinstance(error, _AWAY) or is_full(error)


def is_full(error: RedisError) -> bool:
    """Whether Redis has no memory left for what it was asked to keep."""
    return isinstance(error, OutOfMemoryError) or "OOM" in str(error)
