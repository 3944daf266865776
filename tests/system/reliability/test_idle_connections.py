"""Idle connections are closed after `IOT_KEEPALIVE_SECONDS`; others are not."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from iot_sensor_client import Client
from iot_tools.local.certificate import ensure_certificate
from support.answers import answer_of
from support.stack import Stack

KEEPALIVE = 2
PATIENCE = 30
"""Seconds after which a connection counts as kept open."""
BODY = json.dumps({"data": {"db_password": "p", "freeform": "x"}}).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
PUT = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


class Impatient(Stack):
    """A stack with short timeouts, and with TLS if a context is given."""

    tls: ssl.SSLContext | None = None

    def connect(self) -> socket.socket:
        """Return a new connection."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        return self.tls.wrap_socket(made, server_hostname="localhost") if self.tls else made

    def _client(self, port: int) -> Client:
        if self.tls is None:
            return super()._client(port)
        return Client(f"https://127.0.0.1:{port}", tls_context=self.tls, timeout=PATIENCE)


@pytest.fixture(scope="module", params=["plain", "TLS"])
def stack(
    request: pytest.FixtureRequest,
    module_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Impatient]:
    """The API without a writer, in one process."""
    folder = tmp_path_factory.mktemp("idle")
    ours = {"IOT_API_WORKERS": "1", "IOT_KEEPALIVE_SECONDS": str(KEEPALIVE)}
    tls = None
    if request.param == "TLS":
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        ensure_certificate(certificate, key)
        ours |= {"IOT_TLS_CERTIFICATE": str(certificate), "IOT_TLS_KEY": str(key)}
        tls = ssl.create_default_context(cafile=str(certificate))
    made = Impatient({**module_environment, **ours}, folder)
    made.tls = tls
    try:
        made.start_api()
        yield made
    finally:
        made.stop()


def test_idle_connections_are_closed(stack: Impatient, resources: ExitStack) -> None:
    """The connections had no request, completed requests, or an incomplete head."""
    began = time.monotonic()
    fresh, used, half, half_after = (resources.enter_context(stack.connect()) for _ in range(4))
    for client in (used, half_after):
        client.sendall(GET)
        assert answer_of(client)[0] == 200
        client.sendall(PUT + BODY)
        assert answer_of(client)[0] == 201
    for client in (half, half_after):
        client.sendall(GET[:20])
    for client in (fresh, used, half, half_after):
        assert client.recv(1) == b""
        assert time.monotonic() - began >= KEEPALIVE
    assert stack.request("GET", "/healthz").status == 200


def test_a_connection_is_kept_for_the_configured_time(
    stack: Impatient, resources: ExitStack
) -> None:
    """A load balancer with a slightly shorter idle timeout gets every response."""
    client = resources.enter_context(stack.connect())
    for _ in range(3):
        client.sendall(PUT + BODY)
        client.settimeout(PATIENCE)
        assert answer_of(client)[0] == 201
        client.settimeout(0.75 * KEEPALIVE)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_head_sent_byte_by_byte_is_closed(stack: Impatient, resources: ExitStack) -> None:
    """Single bytes do not restart the timeout."""
    client = resources.enter_context(stack.connect())
    client.settimeout(0.2)
    end = time.monotonic() + PATIENCE
    client.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
    while time.monotonic() < end:
        try:
            client.sendall(b"x")
            assert client.recv(1) == b""
        except TimeoutError:
            continue
        except (ConnectionError, ssl.SSLError):
            pass  # the server closed the connection just before a byte
        return
    pytest.fail("the server keeps the connection open")


def test_a_slow_request_is_completed(stack: Impatient, resources: ExitStack) -> None:
    """A slow body is read while a newer idle connection is closed."""
    slow = resources.enter_context(stack.connect())
    slow.sendall(PUT + BODY[:10])
    for _ in range(2):
        idle = resources.enter_context(stack.connect())
        assert idle.recv(1) == b""
    slow.sendall(BODY[10:])
    assert answer_of(slow)[0] == 201
    slow.sendall(GET)  # the timeout starts again after a request
    assert answer_of(slow)[0] == 200
    assert slow.recv(1) == b""


def test_a_connection_in_use_is_kept(stack: Impatient, resources: ExitStack) -> None:
    used = resources.enter_context(stack.connect())
    began = time.monotonic()
    count = 0
    while time.monotonic() - began < 3 * KEEPALIVE:
        used.sendall(PUT + BODY)
        assert answer_of(used)[0] == 201
        count += 1
        time.sleep(KEEPALIVE / 8)
    print(f"{count} requests on a connection in {3 * KEEPALIVE} s")
    assert used.recv(1) == b""


def test_a_connection_without_a_request_is_closed(stack: Impatient, resources: ExitStack) -> None:
    """With TLS, an incomplete handshake and bytes that are not TLS are closed, too."""
    begins = [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", GET]
    address = ("127.0.0.1", stack.port)
    clients = [socket.create_connection(address, timeout=PATIENCE) for _ in begins]
    for client, begin in zip(clients, begins, strict=True):
        resources.enter_context(client).sendall(begin)
    for client, begin in zip(clients, begins, strict=True):
        try:
            said = client.makefile("rb").read()
        except ConnectionResetError:  # the server closed with unread bytes
            said = b""
        assert said.startswith(b"HTTP/1.1 200 ") == (begin == GET and not stack.tls)
    assert stack.request("GET", "/healthz").status == 200
