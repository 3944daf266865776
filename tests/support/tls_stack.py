"""The processes of the service with https, and devices that send over it."""

import socket
import ssl
from threading import Event, Thread

from cryptography import x509

from iot_sensor_client import Client

from .certificates import Pair
from .each_worker import connections_to_each
from .stack import Stack

BODY = '{"data": {"db_password": "p", "freeform": "x"}}'
JSON = {"Content-Type": "application/json"}


class TlsStack(Stack):
    """A stack that serves https, and whose certificates are trusted."""

    tls: ssl.SSLContext

    def _client(self, port: int) -> Client:
        if port == self.metrics_port:
            return super()._client(port)
        return self.client(self.tls)

    def client(self, tls: ssl.SSLContext, token: str | None = None) -> Client:
        """Return a client with its own TLS context."""
        return Client(f"https://127.0.0.1:{self.port}", token=token, tls_context=tls, timeout=30)

    def serves_only(self, pair: Pair, workers: set[int] | None = None) -> bool:
        """Whether all workers, or the given ones, serve this certificate."""
        chosen = self.workers if workers is None else lambda: workers
        with connections_to_each(self.port, chosen) as connections:
            return {_serial(connection) for connection in connections} == {pair.serial}

    def log(self) -> str:
        """The log of the API."""
        return (self._logs / "api.log").read_text(encoding="utf-8")


def _serial(connection: socket.socket) -> int:
    """Make a TLS handshake, and return the serial number of the server's certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # of interest is what is served, valid or not
    with context.wrap_socket(connection) as tls:
        certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


class Sender:
    """A device that sends all the time, over one connection or over a new one each time."""

    def __init__(
        self, stack: TlsStack, *, keep_alive: bool, tls: ssl.SSLContext | None = None
    ) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._ended = Event()
        url = f"https://127.0.0.1:{stack.port}"
        self._client = Client(url, tls_context=tls or stack.tls, timeout=30, keep_alive=keep_alive)
        self._thread = Thread(target=self._send)
        self._thread.start()

    def _send(self) -> None:
        with self._client:
            while not self._ended.is_set():
                try:
                    answer = self._client.request("PUT", "/api/iot", BODY, JSON, repeatable=False)
                    self.statuses.append(answer.status)
                except Exception as error:  # noqa: BLE001 - the test reports every failure
                    self.failures.append(repr(error))

    def stop(self) -> None:
        """Stop sending."""
        self._ended.set()
        self._thread.join()
