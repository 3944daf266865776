"""Listening sockets: their options, and closing them without resetting connections."""

import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gevent.pool import Pool
from gevent.server import StreamServer

from .certificates import ServedCertificate

_UNSENT_BYTES = 2**18


class Listener:
    """The address of a listening socket. It stays available when the socket is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        """Return the address of the socket."""
        return self._name


def start_server(
    listener: Any, certificate: ServedCertificate | None, handle: Callable[..., None]
) -> Any:
    """Start to accept connections; return the server.

    `handle` gets the listener, the connection and the address of the client.
    """
    listener.setblocking(True)
    handle = partial(handle, Listener(listener))
    if certificate is not None:
        handle = partial(_wrap_and_handle, certificate, handle)
    with suppress(AttributeError, OSError):  # a Unix socket, or another system than Linux
        # Every connection inherits the option. Without it, Linux buffers megabytes for a client
        # that pipelines requests and reads no answer (tcp(7), TCP_NOTSENT_LOWAT).
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
    # The pool has no limit, because `ConnectionTable` limits the connections.
    server = StreamServer(listener, handle=handle, spawn=Pool())
    # By default, gevent (26.9) accepts up to 100 connections in a row, and other workers get none.
    server.max_accept = 1
    server.start()
    return server


def _wrap_and_handle(
    certificate: ServedCertificate, handle: Callable[..., None], client: Any, address: Any
) -> None:
    """Start TLS on a connection. The handshake is a part of `handle`, where it has a deadline."""
    # gevent's server, given a context, would log a traceback for each client that is gone already.
    with suppress(OSError):
        client.getpeername()  # fails if the client is gone: `wrap_socket` would leak the socket
        client = certificate.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        handle(client, address)


def close_listener(server: Any) -> None:
    """Close a listener. First serve the connections in its queue: the close would reset them."""
    server.stop_accepting()
    while accepted := server.do_read():
        server.do_handle(*accepted)
    server.close()
