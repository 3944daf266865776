"""Redis and Postgres over TLS: processes verify the authority and the host name."""

import dataclasses
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from redis.exceptions import ConnectionError as RedisConnectionError

from iot_models.errors import SettingsError
from iot_models.settings import Settings
from iot_stores.redis_client import connect_redis
from iot_tools.cli.main import main
from iot_tools.local.redis_server import RedisServer
from iot_writer.schema import migrate
from support.certificates import new_pair
from support.stack import MakeStack
from support.tls_relay import TlsRelay
from support.waiting import wait_until

Bad = Callable[["Relays"], dict[str, Any]]


class Relays:
    """Relays in front of the stores of a test, each with a certificate of its own."""

    def __init__(self, directory: Path, redis_port: int, redis_url: str, postgres_url: str) -> None:
        self._directory = directory
        self._redis_port = redis_port
        self._redis_url = redis_url
        self._postgres = conninfo_to_dict(postgres_url)
        self._opened = ExitStack()
        self.other_authority = directory / "other.pem"
        self.other_authority.write_bytes(new_pair().certificate)

    def close(self) -> None:
        """Close all relays."""
        self._opened.close()

    def redis(self, *, address: str = "127.0.0.1", authority: Path | None = None) -> str:
        """Return the URL of Redis through a relay with a certificate for `address`.

        `authority`: the file that the URL names; by default the right one.
        """
        relay, right = self._relay(
            address, lambda: socket.create_connection(("127.0.0.1", self._redis_port))
        )
        password = self._redis_url.split("@", maxsplit=1)[0].removeprefix("redis://")
        return f"rediss://{password}@127.0.0.1:{relay.port}/0?ssl_ca_certs={authority or right}"

    def postgres(
        self,
        *,
        address: str = "127.0.0.1",
        authority: Path | None = None,
        mode: str = "verify-full",
    ) -> str:
        """Return the URL of Postgres through a relay with a certificate for `address`."""
        relay, right = self._relay(address, self._connect_postgres, postgres=True)
        user, name = self._postgres["user"], self._postgres["dbname"]
        return (
            f"postgresql://{user}@127.0.0.1:{relay.port}/{name}"
            f"?sslmode={mode}&sslrootcert={authority or right}"
        )

    def _relay(
        self, address: str, connect: Any, *, postgres: bool = False
    ) -> tuple[TlsRelay, Path]:
        pair = new_pair(address=address)
        certificate = self._directory / f"{pair.serial:x}.pem"
        key = self._directory / f"{pair.serial:x}.key"
        certificate.write_bytes(pair.certificate)
        key.write_bytes(pair.key)
        relay = TlsRelay(certificate, key, connect, postgres=postgres)
        self._opened.callback(relay.close)
        return relay, certificate

    def _connect_postgres(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(f"{self._postgres['host']}/.s.PGSQL.5432")
        return connection


@pytest.fixture
def relays(
    tmp_path: Path, redis_server: RedisServer, redis_url: str, postgres_url: str
) -> Iterator[Relays]:
    made = Relays(tmp_path, redis_server.port, redis_url, postgres_url)
    yield made
    made.close()


def test_readings_are_stored_over_tls(make_stack: MakeStack, relays: Relays) -> None:
    stack = make_stack({"IOT_REDIS_URL": relays.redis(), "IOT_POSTGRES_URL": relays.postgres()})
    assert stack.put([{"data": {"db_password": "p", "freeform": "x"}}]).status == 201
    assert wait_until(lambda: stack.read("p"), what="the reading")
    assert stack.read("p", "/seconds/60")


def test_migrations_and_commands_connect_over_tls(
    relays: Relays, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(relays.postgres())
    ours = {"IOT_REDIS_URL": relays.redis(), "IOT_POSTGRES_URL": relays.postgres()}
    for name, value in {**environment, **ours}.items():
        monkeypatch.setenv(name, value)
    main(["held", "list"])
    main(["audit", "export"])


def other_authority(relays: Relays) -> dict[str, Any]:
    """A certificate of an authority that the URL does not name."""
    return {"authority": relays.other_authority}


def other_host(_: Relays) -> dict[str, Any]:
    """A certificate for a host that the URL does not name."""
    return {"address": "127.0.0.9"}


bad_certificates = pytest.mark.parametrize("bad", [other_authority, other_host])


@bad_certificates
def test_a_bad_certificate_of_redis_is_refused(
    settings: Settings, relays: Relays, bad: Bad
) -> None:
    url = relays.redis(**bad(relays))
    with (
        connect_redis(dataclasses.replace(settings, redis_url=url)) as client,
        pytest.raises(RedisConnectionError, match="certificate verify failed"),
    ):
        client.ping()


def test_a_certificate_of_redis_that_no_authority_of_the_system_signed_is_refused(
    settings: Settings, relays: Relays
) -> None:
    url = relays.redis().partition("?")[0]
    with (
        connect_redis(dataclasses.replace(settings, redis_url=url)) as client,
        pytest.raises(RedisConnectionError, match="certificate verify failed"),
    ):
        client.ping()


@bad_certificates
def test_a_bad_certificate_of_postgres_is_refused(relays: Relays, bad: Bad) -> None:
    url = relays.postgres(**bad(relays))
    with pytest.raises((psycopg.OperationalError, SettingsError), match="certificate"):
        migrate(url)


def test_only_verify_full_compares_the_host_name_of_postgres(relays: Relays) -> None:
    """The reason why the documents name verify-full, and no other mode."""
    for mode in ("require", "verify-ca"):
        psycopg.connect(relays.postgres(address="127.0.0.9", mode=mode)).close()
