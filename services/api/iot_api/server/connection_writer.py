"""How an API process sends: without waiting for slow clients longer than their deadlines."""

import time
from collections.abc import Callable
from typing import Any

import gevent
import gevent.socket
from gevent.socket import wait_write

from iot_api.limits.memory_budget import MemoryBudget
from iot_models.errors import UnavailableError

from .connections import Connection, count_closed
from .wsgi_response import PAUSE

PAUSE_SECONDS = 0.25
"""A send that is blocked for this long pauses the application's work on the answer."""
_SPIN_SECONDS = 0.01


class ClientGoneError(OSError):
    """The client is gone, or was closed because it read too slowly."""


class ConnectionWriter:
    """Sends the answers of a connection. gunicorn takes it for the socket."""

    def __init__(self, connection: Connection, memory: MemoryBudget) -> None:
        self._connection = connection
        self._client: Any = connection.client
        self._takes_timeout = type(self._client) is gevent.socket.socket
        """gevent's own `send` has a timeout; that of its TLS ignores it."""
        self._memory = memory
        self.environ: dict[str, Any] = {}
        """Of the request that is answered."""

    def sendall(self, data: bytes) -> None:
        """Send everything. Raises `ClientGoneError` when that fails."""
        sent = self.send_at_once(data)
        if sent < len(data):
            self._send_rest(memoryview(data)[sent:])

    def send(self, data: bytes) -> int:
        """Send everything, as gunicorn expects for its `100 Continue`."""
        self.sendall(data)
        return len(data)

    def send_at_once(self, data: "bytes | memoryview") -> int:
        """Send what the kernel takes without waiting; 0 if it takes nothing."""
        try:
            if self._takes_timeout:
                return self._client.send(data, 0, 0.0)  # type: ignore[no-any-return]
            return self._send_without_timeout(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGoneError from error

    def _send_without_timeout(self, data: "bytes | memoryview") -> int:
        # gevent's sockets never block in the kernel: only the timeout of the object changes.
        self._client.settimeout(0.0)
        try:
            sent: int = self._client.send(data)
        finally:
            self._client.settimeout(None)
        return sent

    def _send_rest(self, data: memoryview) -> None:
        # TLS takes one record of 16 KiB at a time.
        while data and (sent := self.send_at_once(data)):
            data = data[sent:]
        if data:
            self._connection.start_send()
            try:
                self._send_slowly(data)
            finally:
                self._connection.end_send()

    def _send_slowly(self, data: memoryview) -> None:
        """Wait for the client. The worker enforces the deadlines: it shuts the socket down, which
        ends the wait.
        """
        pause_at: float | None = self._connection.send_began + PAUSE_SECONDS
        charged = 0
        try:
            while data:
                if pause_at is not None and time.monotonic() >= pause_at:
                    charged, pause_at = len(data), None
                    self._pause(charged)
                if self._becomes_writable(pause_at):
                    sent = self.send_at_once(data)
                    self._connection.note_sent(sent)
                    data = data[sent:]
                    if not sent:
                        gevent.sleep(_SPIN_SECONDS)  # TLS waits for something else
        finally:
            self._memory.refund(self._connection, charged)

    def _pause(self, waiting: int) -> None:
        """Charge what waits to be sent, and let the application free what it can meanwhile."""
        try:
            self._memory.charge(self._connection, waiting)
        except UnavailableError:
            count_closed("memory")
            raise ClientGoneError from None
        pause: Callable[[], object] | None = self.environ.get(PAUSE)
        if pause is not None:
            pause()

    def _becomes_writable(self, until: float | None) -> bool:
        seconds = None if until is None else max(0.001, until - time.monotonic())
        try:
            wait_write(self._client.fileno(), seconds)
        except TimeoutError:
            return False
        return True
