"""One GET on a new connection."""

from iot_sensor_client import Client


def http_get(port: int, path: str, *, address: str = "127.0.0.1") -> tuple[int, bytes]:
    """Return status and body of the response."""
    host = f"[{address}]" if ":" in address else address
    client = Client(f"http://{host}:{port}", timeout=20, keep_alive=False)
    response = client.request("GET", path, repeatable=False)
    return response.status, response.body
