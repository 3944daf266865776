"""Redis clients that ask Sentinels for the master, and follow it after a failover."""

import re
from functools import partialmethod
from typing import Any, cast
from urllib.parse import unquote

from redis import Redis
from redis.connection import parse_url
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 - redis-py's own, wider than the builtin
    TimeoutError,  # noqa: A004
)
from redis.sentinel import (
    MasterNotFoundError,
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from iot_models.addresses import is_host
from iot_models.errors import SettingsError

from .redis_connections import RenewingSentinelPool

_URL = re.compile(
    r"(?P<scheme>rediss?)\+sentinel://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<hosts>[^/@]+)/(?P<name>[^/?]+)(?:/(?P<db>\d+))?(?P<query>\?.*)?"
)
SENTINEL_PORT = 26379


def connect_through_sentinels(url: str, options: dict[str, Any], variable: str) -> "Redis":
    """Return a client for the master that the Sentinels in `url` name.

    `options` are keyword arguments of redis-py. Error messages name `variable`, the setting of the
    URL.

    Raises:
        SettingsError: the URL does not have the form that `connect_redis` describes.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise SettingsError(
            f"{variable} must be redis+sentinel://host:port,host:port/<master's name>/<db>"
        )
    credentials, query = _split_credentials(found["query"] or "")
    # redis-py parses the rest of the query, as it does for a URL without Sentinels.
    try:
        from_url: dict[str, Any] = parse_url(  # type: ignore[no-untyped-call]
            f"{found['scheme']}://localhost/{query}"
        )
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None
    # `parse_url` returns TLS as a connection class; `Sentinel` takes the option `ssl` instead.
    tls = from_url.pop("connection_class", None) is not None
    for name in ("host", "port", "db"):
        from_url.pop(name, None)
    common = {**options, **from_url, **({"ssl": True} if tls else {})}
    sentinel_options = {
        **common, **credentials, "socket_timeout": options["socket_connect_timeout"],
    }  # fmt: skip
    # `RefusalParser` is for renewing pools. The clients of the Sentinels have other pools.
    sentinel_options.pop("parser_class", None)
    sentinels = _Sentinels(  # type: ignore[no-untyped-call]
        [_address(host, variable) for host in found["hosts"].split(",")],
        sentinel_kwargs=sentinel_options,
        db=int(found["db"] or 0),
        username=unquote(found["user"]) if found["user"] else None,
        password=unquote(found["password"]) if found["password"] else None,
        **common,
    )
    client: Redis = sentinels.master_for(  # type: ignore[no-untyped-call]
        found["name"],
        redis_class=_Master,
        connection_pool_class=RenewingSentinelPool,
        connection_class=_TlsConnection if tls else _Connection,
    )
    return client


class _Sentinels(Sentinel):
    """Sentinels whose error gives the address of each Sentinel and the reason why it is no help.

    redis-py's error has the `repr` of each client and of its error, without the reason.
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return the address of the master, from the first Sentinel that knows it.

        Raises:
            AuthenticationError: no Sentinel knows the master, and one refuses the credentials.
            MasterNotFoundError: no Sentinel knows the master.
        """
        addresses: dict[str, list[str]] = {}  # by reason
        refusal = None
        for index, sentinel in enumerate(self.sentinels):
            address = "{host}:{port}".format_map(sentinel.get_connection_kwargs())
            try:
                masters = cast("dict[str, dict[str, Any]]", sentinel.sentinel_masters())
            except (ConnectionError, TimeoutError) as error:
                if isinstance(error, AuthenticationError):
                    refusal = error
                reason = str(error).replace(f" connecting to {address}.", ":")
            else:
                master = masters.get(service_name)
                if master and self.check_master_state(master, service_name):  # type: ignore[no-untyped-call]
                    # The next search begins with this Sentinel.
                    self.sentinels[0], self.sentinels[index] = sentinel, self.sentinels[0]
                    return master["ip"], master["port"]
                reason = "the master is down" if master else "it does not know this name"
            addresses.setdefault(reason.rstrip("."), []).append(address)
        reasons = "; ".join(f"Sentinel {', '.join(at)}: {why}" for why, at in addresses.items())
        message = f"No master found for {service_name!r}; {reasons}"
        if refusal is not None:
            raise AuthenticationError(message, status_code=refusal.status_code)
        raise MasterNotFoundError(message)


class _Connection(SentinelManagedConnection):
    """A connection to the master that closes itself if the wait for a reply ends with an error.

    redis-py's other connections do the same, but `SentinelManagedConnection` stays open. The next
    command would then take the late reply for its own, and each further command the reply to the
    one before.
    """

    read_response = partialmethod(SentinelManagedConnection.read_response, disconnect_on_error=True)


class _TlsConnection(_Connection, SentinelManagedSSLConnection):
    """`_Connection` with TLS."""


class _Master(Redis):
    """A client of the master that also closes the connections to the Sentinels."""

    def close(self) -> None:
        super().close()
        pool = cast("SentinelConnectionPool", self.connection_pool)
        for sentinel in pool.sentinel_manager.sentinels:
            sentinel.close()


def _split_credentials(query: str) -> tuple[dict[str, str], str]:
    """Return the credentials for the Sentinels, and the query without them."""
    credentials: dict[str, str] = {}
    rest = []
    for part in query.removeprefix("?").split("&"):
        name, _, value = part.partition("=")
        if name in {"sentinel_username", "sentinel_password"}:
            credentials[name.removeprefix("sentinel_")] = unquote(value)
        elif part:
            rest.append(part)
    return credentials, "?" + "&".join(rest) if rest else ""


def _address(host: str, variable: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    if not colon:
        name, port = host, str(SENTINEL_PORT)
    if not name or not is_host(name):
        raise SettingsError(f"{variable}: a Sentinel has no valid host name")
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise SettingsError(f"{variable}: the port of a Sentinel is invalid")
    return name.strip("[]"), int(port)
