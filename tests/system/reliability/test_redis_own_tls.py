"""TLS of Redis itself: it asks for a client certificate, even behind Sentinels."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from iot_models.settings import Settings
from iot_stores.redis_client import connect_redis
from iot_tools.local.child import Child, LaunchError, Program
from iot_tools.local.ports import free_port
from iot_tools.local.redis_server import RedisServer, find_redis
from support.certificates import Authority
from support.stack import MakeStack
from support.waiting import wait_until

NAME = "iot"


class TlsRedis(RedisServer):
    """A Redis that also listens with TLS, and whose clients there need a certificate.

    The port without TLS is for the check whether Redis is ready.
    """

    def __init__(self, directory: Path, tls: list[str]) -> None:
        self.tls_port = free_port()
        super().__init__(directory, config=[f"tls-port {self.tls_port}", *tls])

    @property
    def credentials(self) -> str:
        """User and password, as in a URL."""
        return self.url.removeprefix("redis://").partition("@")[0]


class Site:
    """A Redis with TLS, and the files of its clients."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority = Authority()
        (directory / "ca.crt").write_bytes(authority.certificate)
        # A Sentinel uses its certificate for connections to the master, too.
        server = authority.issue(address="127.0.0.1", purpose=None)
        for name, pair in {"server": server, "client": authority.issue("iot-sensor")}.items():
            (directory / f"{name}.crt").write_bytes(pair.certificate)
            (directory / f"{name}.key").write_bytes(pair.key)
        self.lines = [
            f"tls-cert-file {directory / 'server.crt'}",
            f"tls-key-file {directory / 'server.key'}",
            f"tls-ca-cert-file {directory / 'ca.crt'}",
        ]
        self.redis = TlsRedis(directory / "redis", [*self.lines, "tls-auth-clients yes"])

    def query(self, *, client: bool = True) -> str:
        """Return the query of a URL with the files of a client."""
        files = {"ssl_ca_certs": "ca.crt"}
        if client:
            files |= {"ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
        return "?" + "&".join(f"{name}={self.directory / file}" for name, file in files.items())

    def url(self, *, client: bool = True) -> str:
        """Return the URL of Redis."""
        redis = self.redis
        query = self.query(client=client)
        return f"rediss://{redis.credentials}@127.0.0.1:{redis.tls_port}/0{query}"

    def ports_in_use(self) -> set[str]:
        """Return the ports of Redis to which clients other than this one are connected."""
        with Redis.from_url(self.redis.url) as client:
            mine = client.client_id()
            clients = cast("list[dict[str, str]]", client.client_list())
        return {each["laddr"].rpartition(":")[2] for each in clients if each["id"] != str(mine)}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.redis.start()
    except LaunchError:
        log = made.redis.log.read_text(encoding="utf-8", errors="replace")
        if "Bad directive" in log:
            pytest.skip(f"{find_redis()[0]} is built without TLS")
        raise
    yield made
    made.redis.stop()


def test_all_connections_use_tls_and_a_client_certificate(
    make_stack: MakeStack, site: Site
) -> None:
    """Those of the API, of the writer and of RQ."""
    stack = make_stack({"IOT_REDIS_URL": site.url()})
    assert stack.put([{"data": {"db_password": "p", "freeform": "x"}}]).status == 201
    assert wait_until(lambda: stack.read("p"), what="the reading")
    assert site.ports_in_use() == {str(site.redis.tls_port)}


def test_redis_refuses_a_client_without_a_certificate(settings: Settings, site: Site) -> None:
    for client, accepted in ((True, True), (False, False)):
        changed = dataclasses.replace(settings, redis_url=site.url(client=client))
        with connect_redis(changed) as redis:
            if accepted:
                assert redis.ping()
            else:
                with pytest.raises(RedisConnectionError):
                    redis.ping()


def test_sentinels_with_tls(settings: Settings, site: Site) -> None:
    """The client presents its certificate to the Sentinel and to the master that it names."""
    with sentinel(site) as port:
        for client in (True, False):
            url = (
                f"rediss+sentinel://{site.redis.credentials}@127.0.0.1:{port}/{NAME}/0"
                f"{site.query(client=client)}"
            )
            with connect_redis(dataclasses.replace(settings, redis_url=url)) as redis:
                if client:
                    assert wait_until(lambda one=redis: pings(one), what="the master")  # type: ignore[misc]
                    address = str(redis.client_info()["laddr"])
                    assert address == f"127.0.0.1:{site.redis.tls_port}"
                else:
                    with pytest.raises(RedisConnectionError):
                        redis.ping()


def pings(client: "Redis") -> bool:
    try:
        return bool(client.ping())
    except RedisConnectionError:
        return False


@contextmanager
def sentinel(site: Site) -> Iterator[int]:
    """Run a Sentinel that accepts TLS only; yield its port."""
    directory, port = site.directory / "sentinel", free_port()
    directory.mkdir()
    lines = [
        "bind 127.0.0.1",
        "port 0",
        f"tls-port {port}",
        *site.lines,
        "tls-auth-clients yes",
        "tls-replication yes",
        f"sentinel monitor {NAME} 127.0.0.1 {site.redis.tls_port} 1",
        f"sentinel auth-pass {NAME} {site.redis.credentials.removeprefix(':')}",
    ]
    (directory / "sentinel.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = [find_redis()[0], "sentinel.conf", "--sentinel"]
    log = directory / "sentinel.log"
    child = Child(Program(name="sentinel", arguments=arguments, directory=directory, log=log))
    child.spawn()
    try:
        yield port
    finally:
        child.stop()
