"""A Redis master that Sentinels name: after a failover, connections go to the new one."""

import re
from typing import Any, cast
from urllib.parse import unquote

from redis import Redis
from redis.connection import parse_url
from redis.sentinel import Sentinel, SentinelConnectionPool

from iot_models.errors import SettingsError

from .redis_connections import RenewingSentinelPool

_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<hosts>[^/@]+)/(?P<name>[^/?]+)(?:/(?P<db>\d+))?(?P<query>\?.*)?"
)
SENTINEL_PORT = 26379


def connect_through_sentinels(url: str, options: dict[str, Any], variable: str) -> "Redis":
    """A client of the master that the Sentinels in `url` name, with these options of redis-py.
    `variable` is where the URL stands, for messages.

    User and password are the master's. Those of the Sentinels are `sentinel_username` and
    `sentinel_password` in the query; without them, Sentinels are asked without a password.

    Raises:
        SettingsError: the URL is not of the form that `connect_redis` describes.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise SettingsError(
            f"{variable} must be redis+sentinel://host:port,host:port/<master's name>/<db>"
        )
    own, query = _of_sentinels(found["query"] or "")
    # What the rest of the query may hold, and what TLS means, is redis-py's to say.
    try:
        given: dict[str, Any] = parse_url(  # type: ignore[no-untyped-call]
            f"{found['scheme']}://localhost/{query}"
        )
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None
    tls = given.pop("connection_class", None) is not None
    for name in ("host", "port", "db"):
        given.pop(name, None)
    common = {**options, **given, **({"ssl": True} if tls else {})}
    asking = {**common, **own, "socket_timeout": options["socket_connect_timeout"]}
    asking.pop("parser_class", None)
    sentinels = Sentinel(  # type: ignore[no-untyped-call]
        [_address(host, variable) for host in found["hosts"].split(",")],
        sentinel_kwargs=asking,
        db=int(found["db"] or 0),
        username=unquote(found["user"]) if found["user"] else None,
        password=unquote(found["password"]) if found["password"] else None,
        **common,
    )
    client: Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        found["name"], redis_class=_Master, connection_pool_class=RenewingSentinelPool
    )
    return client


class _Master(Redis):
    """Closes the connections to the Sentinels along with its own."""

    def close(self) -> None:
        super().close()
        pool = cast("SentinelConnectionPool", self.connection_pool)
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


def _of_sentinels(query: str) -> tuple[dict[str, str], str]:
    """The user and the password of the Sentinels in a query, and what else the query has."""
    own: dict[str, str] = {}
    rest = []
    for part in query.removeprefix("?").split("&"):
        name, _, value = part.partition("=")
        if name in {"sentinel_username", "sentinel_password"}:
            own[name.removeprefix("sentinel_")] = unquote(value)
        elif part:
            rest.append(part)
    return own, "?" + "&".join(rest) if rest else ""


def _address(host: str, variable: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon:
        name, port = host, str(SENTINEL_PORT)
    if not name:
        raise SettingsError(f"{variable} names a Sentinel without a host")
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise SettingsError(f"{variable} has a Sentinel's port that is none")
    return name.strip("[]"), int(port)
