"""Sending to clients that make the server wait: they are slow, or do not read at all."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import gevent
from gevent.socket import wait_write

from iot_api.limits.memory_budget import MemoryBudget
from iot_models.errors import UnavailableError

from .phase import ClientGoneError, Phase, count_closed

if TYPE_CHECKING:
    from .connection import Connection

SEND_BYTES_PER_SECOND = 8 * 1024
"""The rate at which a client must receive answers. `deadlines.SEND_GRACE_SECONDS` says how far it
may be behind."""
PAUSE_SECONDS = 0.25
"""A send that is blocked for this long pauses the application's work on the answer."""
PAUSE = "iot_api.pause"
"""Key in the WSGI environ. The view stores a function under this key. The function pauses the work
on the answer, and frees the transaction and the memory of the view. The worker calls the function
at most once for each piece of the answer, if the client has not taken the whole piece after
`PAUSE_SECONDS`."""
_SPIN_SECONDS = 0.01


def send_rest(
    connection: "Connection",
    send_at_once: Callable[[memoryview], int],
    data: memoryview,
    *,
    memory: MemoryBudget,
    pause: Callable[[], object] | None,
) -> None:
    """Send `data`, the bytes of an answer's piece that the kernel did not take immediately.

    Record in `connection` how much the client takes. `send_at_once` returns how many bytes the
    kernel took without waiting. After a wait of `PAUSE_SECONDS`, the unsent bytes are charged to
    `memory`, and `pause` is called.

    Raises:
        ClientGoneError: the client is gone or too slow, the memory budget is used up, or the
            connection is closed and can't take all bytes immediately.
    """
    # TLS takes one record of 16 KiB at a time.
    while data and (sent := send_at_once(data)):
        data = data[sent:]
    if not data:
        return
    if connection.closing:  # must not wait: `ConnectionTable` no longer counts the connection
        connection.reset_at_close()
        raise ClientGoneError
    connection.phase = Phase.SENDING
    connection.since = time.monotonic()
    pause_at: float | None = connection.since + PAUSE_SECONDS
    charged = 0
    try:
        while data:
            if pause_at is not None and time.monotonic() >= pause_at:
                _charge(connection, memory, len(data))
                charged, pause_at = len(data), None
                if pause is not None:
                    pause()
            # The worker enforces the deadlines: it shuts the socket down, which ends the wait.
            if _becomes_writable(connection, pause_at):
                connection.count_wait(time.monotonic())
                sent = send_at_once(data)
                data = data[sent:]
                if not sent:
                    # TLS can wait to receive (a key update) while the socket is writable.
                    gevent.sleep(_SPIN_SECONDS)
    except OSError:
        # Close before the application ends its work, which may take long. Meanwhile, the client
        # could receive all buffered bytes, and the FIN of `Closable.abort` behind them.
        connection.client.close()
        raise
    finally:
        memory.refund(connection, charged)
        connection.phase = Phase.ANSWERING


def _charge(connection: "Connection", memory: MemoryBudget, waiting: int) -> None:
    try:
        memory.charge(connection, waiting)
    except UnavailableError:
        count_closed("memory")
        connection.reset_at_close()
        raise ClientGoneError from None


def _becomes_writable(connection: "Connection", until: float | None) -> bool:
    seconds = None if until is None else max(0.001, until - time.monotonic())
    try:
        wait_write(connection.client.fileno(), seconds)
    except TimeoutError:
        return False
    return True
