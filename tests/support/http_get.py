"""One GET on a connection of its own."""

import http.client


def http_get(port: int, path: str, *, address: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of the answer."""
    connection = http.client.HTTPConnection(address, port, timeout=20)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
