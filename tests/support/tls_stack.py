"""The processes of the service with https, and devices that send over it."""

import ssl
from threading import Event, Thread

from cryptography import x509

from iot_sensor_client import Client

from .certificates import Pair
from .stack import Stack

BODY = '{"data": {"db_password": "p", "freeform": "x"}}'
JSON = {"Content-Type": "application/json"}
HANDSHAKES = 12
"""Consecutive handshakes that reach both workers, with a chance of all but 1 in 2000."""


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

    def serial(self) -> int:
        """The serial number of the certificate that a new connection gets."""
        pem = ssl.get_server_certificate(("127.0.0.1", self.port), timeout=30)
        return x509.load_pem_x509_certificate(pem.encode()).serial_number

    def serves_only(self, pair: Pair) -> bool:
        """Whether all workers serve this certificate."""
        return all(self.serial() == pair.serial for _ in range(HANDSHAKES))

    def log(self) -> str:
        """The log of the API."""
        return (self._logs / "api.log").read_text(encoding="utf-8")


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
