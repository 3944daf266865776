"""How the server ends a connection, or one side of it."""

import os
import socket
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gevent.event import Event
from gevent.ssl import SSLSocket

from iot_models.errors import UnavailableError

from .phase import Phase, count_closed


@dataclass(slots=True, eq=False)
class Closable:
    """The part of a `Connection` that ends the connection."""

    client: socket.socket
    network: str
    phase: Phase = Phase.NEW
    since: float = field(default_factory=time.monotonic)
    """When the phase began. In BODY and SENDING: when the last byte was received or sent."""
    request: Any = None
    closing: bool = False
    failure: Exception | None = None
    """The error that the next receive of the body raises, or None."""
    missing_body: Exception | None = None
    """Error that the receive of a body raises if the server ended the receiving side between the
    head of the request and the end of the body. The sending side is still open, so the client gets
    this error as the answer. Without this error, the answer would be 400 (the body is cut off),
    and the client might drop readings. None until `end_idle`."""
    delay_ends: Event | None = None
    """Event that ends the wait of a delayed answer early. None before the first delayed answer."""

    @property
    def droppable(self) -> bool:
        """Whether closing the connection frees the memory that its body or answer holds."""
        return self.phase in (Phase.BODY, Phase.SENDING) and not self.closing

    def drop(self) -> None:
        """Close the connection, because other requests need the memory of its body or answer."""
        count_closed("memory")
        self.end(UnavailableError("this server is short of memory; send the request again"))

    def end(self, failure: Exception) -> None:
        """Close the connection. If a body is incomplete, its request is answered with `failure`."""
        self.closing = True
        self.end_delay()
        if self.phase is Phase.SENDING:
            self.abort()
        elif self.request is not None:
            self.cut_body(failure)
        else:
            self.end_idle(failure)

    def end_idle(self, failure: Exception) -> None:
        """Close a connection that waits for a request.

        If the head of a request has arrived meanwhile, but not its whole body, the answer is
        `failure`.
        """
        self.missing_body = failure
        self.receive_no_more()

    def end_delay(self) -> None:
        """End the wait of a delayed answer. The answer is sent now."""
        if self.delay_ends is not None:
            self.delay_ends.set()

    def cut_body(self, failure: Exception) -> None:
        """Make the application's next read of the body raise `failure`."""
        self.failure = failure
        self.receive_no_more()

    def linger(self) -> None:
        """End the sending side after the last answer, and begin to wait for the client's FIN.

        `unread_bodies.half_close` discards what the client sends until then.
        """
        self.request = None
        self.phase = Phase.LINGERING
        self.since = time.monotonic()
        self.send_close_notify()
        self._shut_down(socket.SHUT_WR)

    def send_close_notify(self) -> None:
        """With TLS, tell the client that nothing was cut off (RFC 8446, 6.1).

        Do not wait for the close_notify of the client.
        """
        client = self.client
        if isinstance(client, SSLSocket):
            with suppress(OSError, ValueError):
                client.settimeout(0)
                client.unwrap()

    def receive_no_more(self) -> None:
        """End the receiving side. A request that has arrived by then is answered.

        On Linux, receives after SHUT_RD return the bytes that arrived before, and then the end of
        the stream.
        """
        self._shut_down(socket.SHUT_RD)

    def abort(self) -> None:
        """Wake up the greenlet that waits to send. The greenlet closes the connection with RST.

        Only for the phase SENDING: there, the FIN of the shutdown waits behind unsent bytes until
        RST drops them all. In another phase, the kernel would send FIN first.
        """
        self.reset_at_close()
        self._shut_down(socket.SHUT_RDWR)

    def reset_at_close(self) -> None:
        """Prepare the connection so that its close sends RST and drops all unsent bytes.

        The RST tells the client that its answer is cut off. With HTTP/1.0, a client would take a
        close without RST for the end of a complete answer.
        """
        with suppress(OSError), self._duplicate() as duplicate:
            duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _shut_down(self, how: int) -> None:
        # Shut down a duplicate of the descriptor. On `client` itself, gevent (26.9) would raise in
        # the greenlet that waits for it, and ssl's `shutdown` would drop the keys of TLS.
        with suppress(OSError), self._duplicate() as duplicate:
            duplicate.shutdown(how)

    def _duplicate(self) -> socket.socket:
        return socket.socket(fileno=os.dup(self.client.fileno()))
