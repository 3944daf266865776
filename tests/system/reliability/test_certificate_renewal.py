"""A certificate that is replaced on disk is served within a minute, and no request is dropped."""

import os
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families

from iot_sensor_client import Client, Response
from support.certificates import MountedSecret, Pair, new_pair
from support.stack import Stack
from support.waiting import wait_until

BODY = '{"data": {"db_password": "p", "freeform": "x"}}'
JSON = {"Content-Type": "application/json"}
WITHIN = 60
"""Seconds until the renewed certificate is served."""
HANDSHAKES = 12
"""Consecutive handshakes that reach both workers, with a chance of all but 1 in 2000."""


class TlsStack(Stack):
    """A stack that serves https, and whose certificates are trusted."""

    tls: ssl.SSLContext

    def _client(self, port: int) -> Client:
        if port == self.metrics_port:
            return super()._client(port)
        return Client(f"https://127.0.0.1:{port}", tls_context=self.tls, timeout=30)

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

    def __init__(self, stack: TlsStack, *, keep_alive: bool) -> None:
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self._ended = Event()
        url = f"https://127.0.0.1:{stack.port}"
        self._client = Client(url, tls_context=stack.tls, timeout=30, keep_alive=keep_alive)
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


@pytest.fixture
def old() -> Pair:
    """The first certificate."""
    return new_pair(ends=30)


@pytest.fixture
def new() -> Pair:
    """The renewed certificate."""
    return new_pair(ends=90)


@pytest.fixture
def secret(tmp_path: Path, old: Pair) -> MountedSecret:
    """The mounted certificate."""
    return MountedSecret(tmp_path / "tls", old)


@pytest.fixture
def stack(
    environment: dict[str, str], tmp_path: Path, secret: MountedSecret, old: Pair, new: Pair
) -> Iterator[TlsStack]:
    """The API in two processes, with https."""
    ours = {
        "IOT_API_WORKERS": "2",
        "IOT_TLS_CERTIFICATE": str(secret.certificate),
        "IOT_TLS_KEY": str(secret.key),
    }
    made = TlsStack(environment | ours, tmp_path)
    trusted = (old.certificate + new.certificate).decode()
    made.tls = ssl.create_default_context(cadata=trusted)
    try:
        made.start_api()
        yield made
    finally:
        made.stop()


def expiry(stack: TlsStack) -> float:
    """Return the metric of the time at which the served certificate expires."""
    text = stack.request("GET", "/metrics", port=stack.metrics_port).body.decode()
    (family,) = (
        each
        for each in text_string_to_metric_families(text)
        if each.name == "iot_tls_certificate_not_after_timestamp_seconds"
    )
    (sample,) = family.samples
    return float(sample.value)


def test_a_renewed_certificate_is_served_and_no_request_is_dropped(
    stack: TlsStack, secret: MountedSecret, old: Pair, new: Pair
) -> None:
    assert stack.serves_only(old)
    assert expiry(stack) == old.not_after.timestamp()
    with ExitStack() as opened:
        senders = [Sender(stack, keep_alive=keep_alive) for keep_alive in (True, False)]
        for sender in senders:
            opened.callback(sender.stop)
        wait_until(lambda: all(sender.statuses for sender in senders), what="the first answers")
        began = time.monotonic()
        secret.replace(new.certificate, new.key)
        wait_until(lambda: stack.serves_only(new), seconds=WITHIN, what="the new certificate")
        assert time.monotonic() - began < WITHIN
        before = [len(sender.statuses) for sender in senders]
        wait_until(
            lambda: all(
                len(sender.statuses) > count + 5
                for sender, count in zip(senders, before, strict=True)
            ),
            what="answers after the renewal",
        )
    for sender in senders:
        assert not sender.failures
        assert set(sender.statuses) == {201}
    assert expiry(stack) == new.not_after.timestamp()


def test_an_invalid_pair_changes_nothing(
    stack: TlsStack, secret: MountedSecret, old: Pair, new: Pair
) -> None:
    """Both workers refuse the pair, and a worker that starts then waits for a valid one."""
    wait_until(lambda: stack.log().count("certificate was loaded") == 2, seconds=WITHIN)
    secret.replace(new.certificate, old.key)
    wait_until(lambda: stack.log().count("certificate was not loaded") >= 2, seconds=WITHIN)
    assert stack.serves_only(old)
    first, _ = stack.workers()
    os.kill(first, 9)
    wait_until(lambda: "accepts no connection" in stack.log(), seconds=WITHIN)
    assert stack.serves_only(old)
    assert stack.request("PUT", "/api/iot", BODY, JSON).status == 201
    secret.replace(new.certificate, new.key)
    wait_until(lambda: stack.serves_only(new), seconds=WITHIN, what="the new certificate")
    for line in old.key.decode().splitlines()[1:-1] + new.key.decode().splitlines()[1:-1]:
        assert line not in stack.log()


def test_https_says_so_to_browsers(stack: TlsStack) -> None:
    """Also where the worker itself answers; not on a 201."""
    sent = stack.request("PUT", "/api/iot", BODY, JSON)
    assert sent.status == 201
    assert "strict-transport-security" not in names(sent)
    for path, headers, status in (
        ("/healthz", {}, 200),
        ("/nothing", {}, 404),
        ("/healthz", {"Transfer-Encoding": "x"}, 501),
    ):
        answer = stack.request("GET", path, headers=headers)
        assert answer.status == status
        assert "strict-transport-security" in names(answer)


def names(answer: Response) -> set[str]:
    """Return the names of the headers."""
    return {name.lower() for name in answer.headers}
