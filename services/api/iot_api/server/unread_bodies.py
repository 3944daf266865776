"""Discarding the unread rest of a request's body before the connection is used again or closed.

When a socket with unread bytes is closed, Linux sends RST instead of FIN (RFC 1122, 4.2.2.13), and
the client may lose the answer that it has not read yet.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import RequestTimeout

from iot_models.errors import IotError

from .connection import Connection

_SECONDS = 2.0
_BYTES = 16 * 2**20
"""Maximum number of bytes to read and discard: the default of `IOT_MAX_BODY_BYTES`."""


def discard_body(connection: Connection, body: Any) -> bool:
    """Read and discard the rest of a body, within limits.

    Return whether the connection can take another request.
    """
    connection.discards_body = True
    if body.failed:  # the start of the next request is unknown
        half_close(connection)
        return False
    return _discard(body.read)


def half_close(connection: Connection) -> None:
    """End the sending side. Then read and discard, within limits, what the client still sends."""
    connection.send_no_more()
    _discard(connection.client.recv)


def _discard(read: Callable[[int], bytes]) -> bool:
    """Read and discard all data. Return False if a limit is reached, or if reading fails."""
    left = _BYTES
    # IotError and RequestTimeout: the connection's `failure`. The request is answered already.
    ends = (OSError, ParseException, IotError, RequestTimeout)
    with gevent.Timeout(_SECONDS, False), suppress(*ends):
        while left > 0:
            data = read(2**16)
            if not data:
                return True
            left -= len(data)
    return False
