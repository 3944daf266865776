"""Single requests to an API, each on a new connection."""

from iot_sensor_client import Client, NoResponseError

_JSON = {"Content-Type": "application/json"}


def ask(port: int, method: str, path: str, content: bytes = b"") -> tuple[int, bytes]:
    """Return status and body of the response, or `(0, b"")` without a response."""
    client = Client(f"http://127.0.0.1:{port}", timeout=60, keep_alive=False)
    try:
        response = client.request(method, path, content, _JSON, repeatable=False)
    except NoResponseError:
        return 0, b""
    return response.status, response.body
