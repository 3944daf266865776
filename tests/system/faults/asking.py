"""Questions to an API, one connection each."""

import http.client
from contextlib import suppress


def ask(port: int, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
    """Status and content of an answer; 0 and nothing when none came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        with suppress(OSError, http.client.HTTPException):
            connection.request(method, path, content, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
    finally:
        connection.close()
    return 0, b""
