"""Requests one at a time, with answers of any length."""

import http.client

TIMEOUT_SECONDS = 120
_PIECE = 2**20


def ask(
    port: int, method: str, path: str, body: bytes | None = None, content_type: str = ""
) -> bytes:
    """The body of the answer; `RuntimeError` when its status is no success."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": content_type or "text/plain"})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {said[:300]!r}")
        return said
    finally:
        connection.close()


def count_in_answer(port: int, method: str, path: str, body: bytes, word: bytes) -> int:
    """How often a word stands in an answer that is read at full speed and not kept."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {answer.read(300)!r}")
        found, tail = 0, b""
        while piece := answer.read1(_PIECE):
            held = tail + piece
            found += held.count(word)
            # A word that is cut in two stands in neither piece: keep what may be its begin.
            tail = held[max(0, len(held) - len(word) + 1) :]
        return found
    finally:
        connection.close()
