"""Redis over TLS. A relay terminates TLS, as not every `redis-server` is built with TLS."""

import dataclasses
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from iot_models.settings import Settings
from iot_stores.redis_client import connect_redis
from iot_tools.local.certificate import ensure_certificate
from iot_tools.local.redis_server import RedisServer
from support.stack import MakeStack
from support.waiting import wait_until


class TlsRelay:
    """A relay that terminates TLS and forwards the data to a port."""

    def __init__(self, certificate: Path, key: Path, target: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._opened = ExitStack()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Close every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            self._opened.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(client, server_side=True) as inside:
            inside.settimeout(None)
            with socket.create_connection(("127.0.0.1", self._target)) as outside:
                with self._lock:
                    self._opened.callback(_shut, inside)
                    self._opened.callback(_shut, outside)
                back = threading.Thread(target=_pass_on, args=(outside, inside), daemon=True)
                back.start()
                _pass_on(inside, outside)
                back.join()


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(2**16):
            target.sendall(data)
    _shut(target)
    _shut(source)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.pem"
    ensure_certificate(path, tmp_path / "key.pem")
    return path


@pytest.fixture
def relay(certificate: Path, redis_server: RedisServer, tmp_path: Path) -> Iterator[TlsRelay]:
    made = TlsRelay(certificate, tmp_path / "key.pem", redis_server.port)
    yield made
    made.close()


def tls_url(redis_url: str, relay: TlsRelay, authorities: Path | None) -> str:
    """Return the URL of Redis through the relay."""
    password = redis_url.split("@", maxsplit=1)[0].removeprefix("redis://")
    query = f"?ssl_ca_certs={authorities}" if authorities else ""
    return f"rediss://{password}@127.0.0.1:{relay.port}/0{query}"


def test_readings_are_stored_over_tls(
    make_stack: MakeStack, redis_url: str, relay: TlsRelay, certificate: Path
) -> None:
    stack = make_stack({"IOT_REDIS_URL": tls_url(redis_url, relay, certificate)})
    assert stack.put([{"data": {"db_password": "p", "freeform": "x"}}]).status == 201
    assert wait_until(lambda: stack.read("p"), what="the reading")
    assert stack.read("p", "/seconds/60")


@pytest.mark.parametrize("authorities", ["none", "another"])
def test_an_untrusted_certificate_of_redis_is_refused(
    settings: Settings, redis_url: str, relay: TlsRelay, tmp_path: Path, authorities: str
) -> None:
    other = tmp_path / "other.pem"
    ensure_certificate(other, tmp_path / "other-key.pem")
    url = tls_url(redis_url, relay, other if authorities == "another" else None)
    with (
        connect_redis(dataclasses.replace(settings, redis_url=url)) as client,
        pytest.raises(RedisConnectionError, match="certificate verify failed"),
    ):
        client.ping()
