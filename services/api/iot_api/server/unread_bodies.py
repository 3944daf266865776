"""Discarding what a client sends and the server does not read.

If a socket is closed with unread bytes, or bytes arrive after the close, Linux sends RST in place
of FIN (RFC 1122, 4.2.2.13). RST drops the answers that the client has not received. So the server
first ends its sending side, and waits until the client has ended its own (RFC 9112, 9.6).
"""

import os
import sys
import time
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ
from typing import Any

import gevent
from gevent.socket import wait_read
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestTimeout

from iot_models.errors import IotError

from .connection import Connection

DISCARDED_BYTES = 16 * 2**20
"""An unread body is discarded up to this size, the default of `IOT_MAX_BODY_BYTES`, so that the
connection can take another request. If more is unread, the answer says `Connection: close`."""
_DISCARD_SECONDS = 2.0
LINGER_SECONDS = 10.0
"""Longest time from the last answer to the close of the connection."""
SILENT_SECONDS = 2.0
"""The connection is closed before `LINGER_SECONDS` if the client has sent and received nothing for
this long."""
_LINGER_BYTES = 256 * 2**20
"""The connection is closed before `LINGER_SECONDS` if the server has discarded this many bytes."""
_STEP_BYTES = 2**16
_POLL_SECONDS = 0.05


def discard_body(connection: Connection, body: Any) -> bool:
    """Read and discard the rest of a body, within limits.

    Return whether the connection can take another request.
    """
    connection.discards_body = True
    left = DISCARDED_BYTES
    # IotError and RequestTimeout are the connection's `failure`. The request is answered already.
    ends = (OSError, ParseException, IotError, RequestTimeout)
    with gevent.Timeout(_DISCARD_SECONDS, False), suppress(*ends):
        while left > 0 and not body.failed:
            data = body.read(_STEP_BYTES)
            if not data:
                return True
            left -= len(data)
    return False


def half_close(connection: Connection, *, shuts_down: bool) -> None:
    """End the sending side, and give the client time to receive all answers.

    Until the client ends its side, discard what it sends, within limits. Stop immediately if the
    connection is closed to make room for another.

    If the process shuts down (`shuts_down`), also wait until the client's kernel has received all
    answers. The kernel of a pod sends the answers of a closed socket, but only until the pod ends.
    """
    connection.linger()
    ends = time.monotonic() + LINGER_SECONDS
    with suppress(OSError):
        if _discard_until_end(connection, ends) and shuts_down:
            _wait_until_received(connection, ends)


def _discard_until_end(connection: Connection, ends: float) -> bool:
    """Discard what the client sends. Return whether it has ended its side within the limits.

    With TLS, the discarded bytes are the encrypted ones.
    """
    descriptor, left, unreceived = connection.client.fileno(), _LINGER_BYTES, 0
    while left > 0 and (seconds := ends - time.monotonic()) > 0:
        try:
            wait_read(descriptor, min(seconds, SILENT_SECONDS))
        except TimeoutError:
            before, unreceived = unreceived, _unreceived_bytes(descriptor)
            if unreceived == before:
                return False
            continue
        count = len(os.read(descriptor, _STEP_BYTES))
        if not count:
            return True
        left -= count
    return False


def _wait_until_received(connection: Connection, ends: float) -> None:
    descriptor = connection.client.fileno()
    progress, before = time.monotonic(), 0
    while (unreceived := _unreceived_bytes(descriptor)) and not connection.closing:
        now = time.monotonic()
        if unreceived != before:
            progress, before = now, unreceived
        if now >= min(ends, progress + SILENT_SECONDS):
            return
        # Poll, because the socket is always readable after SHUT_RD.
        gevent.sleep(_POLL_SECONDS)
        os.read(descriptor, _STEP_BYTES)


def _unreceived_bytes(descriptor: int) -> int:
    """Return the number of sent bytes that the client's kernel has not acknowledged."""
    return int.from_bytes(ioctl(descriptor, TIOCOUTQ, bytes(4)), sys.byteorder)
