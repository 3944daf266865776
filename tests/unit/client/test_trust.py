"""Certificates of the service that the client refuses."""

import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from iot_sensor_client import Client, Outbox, RetryPolicy, TrustError
from support.certificates import Pair, new_pair
from support.waiting import wait_until
from unit.client.conftest import QUICK, Server, reading
from unit.client.test_live import OPEN, event, scripted
from unit.client.test_live import reading as stored

ENDLESS = RetryPolicy(max_attempts=10**9, max_seconds=10**9)
VALID, EXPIRED = new_pair(), new_pair(begins=-2, ends=-1)


class Tls:
    """The TLS of a server, whose certificate can be replaced. A client trusts `ca_file`."""

    def __init__(self, server: ThreadingHTTPServer, folder: Path, pair: Pair) -> None:
        self._file = folder / "pair.pem"
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.use(pair)
        server.socket = self._context.wrap_socket(server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{server.server_port}"
        self.ca_file = folder / "trusted.pem"
        self.ca_file.write_bytes(VALID.certificate + EXPIRED.certificate + pair.certificate)

    def use(self, pair: Pair) -> None:
        """Serve this certificate on new connections."""
        self._file.write_bytes(pair.certificate + pair.key)
        self._context.load_cert_chain(self._file)


@pytest.mark.parametrize(
    ("pair", "known", "problem"),
    [
        (VALID, False, "self.signed certificate; .* ca_file, or --ca-file"),
        (EXPIRED, True, "certificate has expired; .* clock"),
        (new_pair(begins=1), True, "certificate is not yet valid; .* clock"),
        (new_pair(address="127.0.0.9"), True, r"not valid for '127.0.0.1'$"),
    ],
)
def test_a_refused_certificate_is_reported_without_retries(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pair: Pair,
    known: bool,
    problem: str,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("the client waits"))
    tls = Tls(server.http, tmp_path, pair)
    ca_file = tls.ca_file if known else None
    with Client(tls.url, retry=ENDLESS, ca_file=ca_file) as client:
        with pytest.raises(TrustError, match=problem) as refused:
            client.send([reading(1)])
        assert not refused.value.sent
        with pytest.raises(TrustError, match=problem):
            next(client.follow())


def test_an_outbox_waits_for_a_renewed_certificate(
    server: Server, tmp_path: Path, path: Path
) -> None:
    tls = Tls(server.http, tmp_path, EXPIRED)
    with Client(tls.url, ca_file=tls.ca_file) as client, Outbox(client, path, retry=QUICK) as box:
        box.send(reading(1))
        wait_until(lambda: box.statistics().state == "waiting", what="an attempt that failed")
        assert "certificate has expired" in str(box.statistics().last_error)
        tls.use(VALID)
        assert box.flush(20)
        assert (box.statistics().acknowledged, box.statistics().set_aside) == (1, 0)


def test_follow_waits_for_a_renewed_certificate(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted() as service, ThreadPoolExecutor(1) as pool:
        service.answers = [
            (200, OPEN + event("readings", {"data": [stored(number)]}, f"p{number}"))
            for number in (1, 2)
        ]
        tls = Tls(service.http, tmp_path, VALID)
        with Client(tls.url, ca_file=tls.ca_file) as client:
            live = client.follow(interval=0.01)
            assert next(live)["id"] == 1
            tls.use(EXPIRED)
            second = pool.submit(next, live)
            wait_until(lambda: "certificate has expired" in caplog.text, what="a refusal")
            tls.use(VALID)
            assert second.result()["id"] == 2
