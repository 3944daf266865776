"""gunicorn's answer, but for how it is sent: the head with the first of the body, at once."""

import time
from functools import lru_cache
from typing import Any

from gunicorn import util
from gunicorn.http.wsgi import Response

PAUSE = "iot_api.pause"
"""Key in the WSGI environ that a view may set: a function that the worker calls, at most once for
each piece of the answer, when the client has not taken that piece for 0.25 s. A long read returns
its transaction and its memory then.
"""


class WsgiResponse(Response):  # type: ignore[misc] # gunicorn has no types
    """Spares a system call, and the client a second packet to wake up for."""

    def send_headers(self) -> None:
        """Send the head alone, of an answer without a body."""
        if not self.headers_sent:
            self._send(b"")

    def write(self, data: Any) -> None:
        """Send a piece of the body, and what was not sent before it."""
        whole = self.response_length is not None and len(data) <= self.response_length
        if self.headers_sent or not whole or self._omits_body or not isinstance(data, bytes):
            super().write(data)
            return
        self.sent += len(data)
        self._send(data)

    def default_headers(self) -> list[str]:
        """The first lines of every answer."""
        connection = "close" if self.should_close() else "keep-alive"
        major, minor = self.req.version
        head = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\n",
            f"Date: {_http_date(int(time.time()))}\r\n",
            f"Connection: {connection}\r\n",
        ]
        if self.chunked:
            head.append("Transfer-Encoding: chunked\r\n")
        return head

    def _send(self, body: bytes) -> None:
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        lines.append("\r\n")
        util.write(self.sock, "".join(lines).encode("latin-1") + body)
        self.headers_sent = True


@lru_cache(maxsize=4)
def _http_date(second: int) -> str:
    return str(util.http_date(second))
