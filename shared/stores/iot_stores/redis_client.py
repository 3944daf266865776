"""The connection to Redis."""

from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own, wider than the builtin
    RedisError,
)
from redis.retry import Retry

from iot_models.errors import SettingsError
from iot_models.settings import Settings

from .redis_connections import RefusalTrackingParser, RenewingPool
from .sentinels import connect_through_sentinels
from .store_states import state_of

CONNECT_SECONDS = 2.0
RESPONSE_SECONDS = 3.0
MAX_CONNECTIONS = 128
"""Of one client; far more than are busy at once while Redis answers."""


def connect_redis(settings: Settings) -> "Redis":
    """A client with a pool of its own; connects at the first command.

    The URL is `redis://` or, with TLS, `rediss://`; or, for a master that Sentinels name,
    `redis+sentinel://[user:password@]host:port,host:port/<master's name>/<db>`, with TLS
    `rediss+sentinel://`. Options of TLS go into the query: `?ssl_ca_certs=/path`; so do a user and
    a password that the Sentinels ask for: `?sentinel_username=...&sentinel_password=...`.

    A command whose connection breaks is sent again, twice within a second. Everything that is
    sent through it can bear that: see `backlog.Backlog.append`. One that isn't answered in time
    is not: whoever waits for it has waited long enough.

    Raises:
        SettingsError: the URL is not of these forms.
    """
    return _connect(settings.redis_url, "IOT_REDIS_URL", RESPONSE_SECONDS)


def connect_hot_window(
    settings: Settings, shared: "Redis", *, timeout: float = RESPONSE_SECONDS
) -> "Redis":
    """A client of the hot window's own Redis; without one, `shared`, that of the backlog.

    `timeout` is how many seconds an answer may take. Raises `SettingsError` as `connect_redis`.
    """
    if settings.hot_window_redis_url in {"", settings.redis_url}:
        return shared
    return _connect(settings.hot_window_redis_url, "IOT_HOT_WINDOW_REDIS_URL", timeout)


def _connect(url: str, variable: str, timeout: float) -> "Redis":
    options: dict[str, Any] = {
        "socket_connect_timeout": min(timeout, CONNECT_SECONDS),
        "socket_timeout": timeout,
        "health_check_interval": 30,
        "max_connections": MAX_CONNECTIONS,
        "retry": Retry(
            ExponentialWithJitterBackoff(base=0.05, cap=0.5),
            retries=2,
            supported_errors=(ConnectionError,),
        ),
        "retry_on_error": [BusyLoadingError],
        "parser_class": RefusalTrackingParser,
    }
    if "+sentinel://" not in url and not _has_a_fit_port(url):
        # What is taken for the port may be the password: redis-py would repeat it.
        raise SettingsError(
            f"{variable} has a port that is none; special characters of its password must be "
            "written as %40 (@), %2F (/), %3A (:), %23 (#), %3F (?), %25 (%)"
        )
    try:
        if "+sentinel://" in url:
            client = connect_through_sentinels(url, options, variable)
        else:
            # Who finds every connection taken waits for one.
            pool = RenewingPool.from_url(url, timeout=timeout, **options)
            client = Redis.from_pool(pool)
        # One that is not used: a query that says what is no option would be found out by that.
        client.connection_pool.connection_class(**client.connection_pool.connection_kwargs)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{variable}: {error}") from None
    return client


def _has_a_fit_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def milliseconds(time: tuple[int, int]) -> int:
    """Redis's answer to TIME, in Unix milliseconds."""
    seconds, micros = time
    return seconds * 1000 + micros // 1000


def is_out_of_memory(error: RedisError) -> bool:
    """Whether Redis has no memory left for what it was asked to keep."""
    state = state_of(error)
    return state is not None and state.code == "OOM"
