"""Bodies that the application has not read: they are received before a connection is closed.

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
"""Maximum bytes read of an unwanted body: all of a body within the default size limit."""


def discard_body(connection: Connection, body: Any) -> bool:
    """Read the rest of a body, within limits; return whether another request can follow."""
    connection.discards_body = True
    if body.failed:  # the start of the next request is unknown
        half_close(connection)
        return False
    return _discard(body.read)


def half_close(connection: Connection) -> None:
    """End the sending side, and read what the client still sends, within limits."""
    connection.send_no_more()
    _discard(connection.client.recv)


def _discard(read: Callable[[int], bytes]) -> bool:
    """Read to the end; return False if a limit is reached or the connection is closed."""
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
