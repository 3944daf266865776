"""A relay that terminates TLS in front of Redis or Postgres: not every server is built with TLS."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

_SSL_REQUEST = bytes.fromhex("0000000804d2162f")
"""A client of Postgres asks with these bytes whether the server speaks TLS."""

Connect = Callable[[], socket.socket]


class TlsRelay:
    """A relay that terminates TLS and forwards the data."""

    def __init__(
        self, certificate: Path, key: Path, connect: Connect, *, postgres: bool = False
    ) -> None:
        """`connect` returns a new connection to the server behind the relay."""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._connect = connect
        self._postgres = postgres
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
        with client, suppress(OSError):
            if self._postgres:
                if client.recv(len(_SSL_REQUEST), socket.MSG_WAITALL) != _SSL_REQUEST:
                    return  # like a server that accepts `hostssl` alone
                client.sendall(b"S")
            with self._context.wrap_socket(client, server_side=True) as inside:
                inside.settimeout(None)
                self._forward(inside)

    def _forward(self, inside: socket.socket) -> None:
        with self._connect() as outside:
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
