"""An idle TLS connection that the API closes ends with a close_notify (RFC 8446, 6.1).

Otherwise a client can't tell the close from a connection that was cut.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.certificates import MountedSecret, new_pair
from support.tls_stack import TlsStack

GET = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"


@contextmanager
def serving(environment: dict[str, str], folder: Path, **changes: str) -> Iterator[TlsStack]:
    """Start an API with one worker."""
    pair = new_pair()
    secret = MountedSecret(folder / "tls", pair)
    ours = {
        "IOT_TLS_CERTIFICATE": str(secret.certificate),
        "IOT_TLS_KEY": str(secret.key),
        "IOT_API_WORKERS": "1",
    }
    stack = TlsStack(environment | ours | changes, folder)
    stack.tls = ssl.create_default_context(cadata=pair.certificate.decode())
    try:
        stack.start_api()
        yield stack
    finally:
        stack.stop()


@contextmanager
def connection(stack: TlsStack) -> Iterator[ssl.SSLSocket]:
    """A connection that raises `SSLEOFError` if it ends without a close_notify."""
    with (
        socket.create_connection(("127.0.0.1", stack.port), timeout=30) as plain,
        stack.tls.wrap_socket(
            plain, server_hostname="127.0.0.1", suppress_ragged_eofs=False
        ) as client,
    ):
        yield client


def answered(client: ssl.SSLSocket) -> None:
    """Send a request and receive its answer."""
    client.sendall(GET)
    answer = b""
    while b"}" not in answer:
        answer += client.recv(4096)


def test_a_connection_that_is_idle_for_too_long(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with (
        serving(environment, tmp_path, IOT_KEEPALIVE_SECONDS="1") as stack,
        connection(stack) as silent,
        connection(stack) as idle,
    ):
        answered(idle)
        assert (idle.recv(1), silent.recv(1)) == (b"", b"")


def test_a_connection_that_is_idle_during_a_shutdown(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with (
        serving(environment, tmp_path) as stack,
        connection(stack) as silent,
        connection(stack) as idle,
    ):
        answered(idle)
        assert stack.api is not None
        stack.api.terminate()
        assert (idle.recv(1), silent.recv(1)) == (b"", b"")
