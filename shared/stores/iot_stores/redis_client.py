"""Redis clients, opened from the settings."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import (
    BusyLoadingError,
    ConnectionError,  # noqa: A004 - redis-py's own, wider than the builtin
    RedisError,
)
from redis.retry import Retry

from iot_models.addresses import is_host
from iot_models.errors import SettingsError
from iot_models.settings import Settings

from .redis_connections import RefusalParser, RenewingPool
from .sentinels import connect_through_sentinels
from .store_states import state_of

CONNECT_SECONDS = 2.0
RESPONSE_SECONDS = 3.0
MAX_CONNECTIONS = 128
"""Maximum number of connections of one client: far more than are in use while Redis answers."""
_SCHEMES = ("redis://", "rediss://", "redis+sentinel://", "rediss+sentinel://", "unix://")
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def connect_redis(settings: Settings) -> "Redis":
    """Return a client for the Redis of the backlog. It connects at the first command.

    Forms of the URL, each with `rediss` instead of `redis` for TLS:

        redis://[user:password@]host:port/<db>
        redis+sentinel://[user:password@]host:port,host:port/<master's name>/<db>

    TLS options go into the query (`?ssl_ca_certs=/path`), and so do the credentials for the
    Sentinels (`?sentinel_username=...&sentinel_password=...`).

    If the connection breaks, the client sends the command again, up to twice within a second. So
    every command of this project must be safe to repeat. A command that times out is not sent
    again, because its caller has waited long enough.

    Raises:
        SettingsError: the URL has another form, or a file in its query can't be read.
    """
    return _connect(settings.redis_url, "IOT_REDIS_URL", RESPONSE_SECONDS)


def connect_hot_window(
    settings: Settings, shared: "Redis", *, timeout: float = RESPONSE_SECONDS
) -> "Redis":
    """Return a client for the hot window's own Redis; `shared` if the settings name no such Redis.

    `timeout`: maximum time until a reply, in seconds. Raises `SettingsError` like `connect_redis`.
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
        "parser_class": RefusalParser,
    }
    # redis-py's list lacks the schemes of Sentinels, and it checks the scheme last.
    if not url.startswith(_SCHEMES):
        raise SettingsError(f"{variable}: the URL must begin with one of {', '.join(_SCHEMES)}")
    if "+sentinel://" not in url and (problem := _problem_of(url)):
        raise SettingsError(
            f"{variable}: {problem}; if the password contains special characters, write them as "
            "%40 (@), %2F (/), %3A (:), %23 (#), %3F (?), %25 (%)"
        )
    try:
        if "+sentinel://" in url:
            client = connect_through_sentinels(url, options, variable)
        else:
            # `timeout`: time to wait for a free connection.
            pool = RenewingPool.from_url(url, timeout=timeout, **options)
            client = Redis.from_pool(pool)
        # redis-py checks the options of the query when it makes a connection. Make one now, without
        # connecting, so that a wrong option is found at startup.
        pool_options = client.connection_pool.connection_kwargs
        client.connection_pool.connection_class(**pool_options)
        # redis-py reads these files when it connects, and then reports Redis as away.
        for name in _FILES:
            if path := pool_options.get(name):
                _check_readable(name, path)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{variable}: {error}") from None
    return client


def _check_readable(name: str, path: str) -> None:
    """Raise ValueError if the file in the option `name` of a URL can't be read."""
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise ValueError(f"{name}: {path}: {error.strerror}") from None


def _problem_of(url: str) -> str | None:
    """Return what is wrong with the host, the port or the database of a URL without Sentinels.

    redis-py would repeat an invalid port in its error, and ignores an invalid database. With an
    unescaped / or # in the password, a part of the password is taken for the port or the database.
    """
    try:
        parts = urlsplit(url)
        port, host = parts.port, unquote(parts.hostname or "")
    except ValueError:
        port, host = 0, ""
    if port == 0:
        return "invalid port"
    if not is_host(host):
        return "invalid host name"
    if parts.scheme != "unix" and not re.fullmatch("(/[0-9]*)?/?", parts.path):
        return "invalid database: it must be a number, as in redis://host:6379/0"
    return None


def milliseconds(time: tuple[int, int]) -> int:
    """Convert Redis's reply to TIME into Unix milliseconds."""
    seconds, micros = time
    return seconds * 1000 + micros // 1000


def is_out_of_memory(error: RedisError) -> bool:
    """Return whether Redis refused a write because its memory is full."""
    state = state_of(error)
    return state is not None and state.code == "OOM"
