"""The listening sockets, on gevent's sockets."""

import socket
import ssl
import struct
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import gevent.socket
import pytest
from gunicorn.config import Config

from iot_api.server.certificates import ServedCertificate
from iot_api.server.listeners import start_server
from support.certificates import MountedSecret, new_pair


@pytest.mark.parametrize("sent", [b"", b"x"])
def test_a_tls_client_that_is_gone_before_its_handshake_logs_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    secret = MountedSecret(tmp_path / "tls", new_pair())
    config = Config()
    config.set("certfile", str(secret.certificate))
    config.set("keyfile", str(secret.key))
    served = ServedCertificate(config)
    served.refresh(0.0)
    handled: Any = gevent.event.AsyncResult()
    listener = gevent.socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = start_server(listener, served, lambda *given: handled.set(given))
    try:
        # A socket of the standard library: the server accepts the connection after the RST.
        with socket.create_connection(listener.getsockname()) as gone:
            gone.sendall(sent)
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with socket.create_connection(listener.getsockname()) as client:
            _, connection, address = handled.get(timeout=60)
            assert address == client.getsockname()
            assert isinstance(connection, ssl.SSLSocket)
            connection.close()
    finally:
        server.stop()
    assert not capfd.readouterr().err
