"""Counts a word in a response of any length.

A measure of reads receives hundreds of megabytes. It must not keep them, and must leave the CPU to
the servers. `iot_sensor_client` is not used, because it keeps the whole response.
"""

import http.client

TIMEOUT_SECONDS = 120
_PIECE_BYTES = 2**20


def count_in_response(port: int, method: str, path: str, body: bytes, word: bytes) -> int:
    """Return how often a word is in a response. The response is read at full speed and not kept.

    Raises:
        RuntimeError: the status is not a success.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status >= 300:
            raise RuntimeError(f"{method} {path}: {response.status} {response.read(300)!r}")
        count, tail = 0, b""
        while piece := response.read1(_PIECE_BYTES):
            text = tail + piece
            count += text.count(word)
            # A word may be split between two pieces: count the end of this piece with the next one.
            tail = text[max(0, len(text) - len(word) + 1) :]
        return count
    finally:
        connection.close()
