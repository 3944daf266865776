"""Connections stay open, and a request on a closed one is not lost."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from iot_sensor_client import Client, NoResponseError, RetryPolicy
from iot_tools.local.certificate import ensure_certificate
from iot_tools.local.ports import free_port
from support.certificates import Authority, Pair
from support.waiting import stretched, wait_until
from unit.client.conftest import CLOSE, Server

ONE_ATTEMPT = RetryPolicy(max_attempts=1)


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:5000", "ftp://x", "http://", "nonsense", "http://x:0", "http://x:70000",
        "http://user:password@x", "http://x?query",
    ],
)  # fmt: skip
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"^the URL must have the form http\(s\)://host"):
        Client(url)


def test_requests_share_a_connection(server: Server) -> None:
    with Client(server.url + "/prefix/") as client:
        assert not client.connected
        for number in range(3):
            assert client.request("GET", f"/{number}?a=b").status == 200
        assert client.connected
    assert not client.connected
    assert [each.path for each in server.received] == [f"/prefix/{n}?a=b" for n in range(3)]
    assert server.connections == 1


def test_without_keep_alive_each_request_has_its_own_connection(server: Server) -> None:
    with Client(server.url, keep_alive=False) as client:
        for _ in range(2):
            client.request("GET", "/")
        assert not client.connected
    assert server.connections == 2
    assert server.received[0].headers["connection"] == "close"


def test_threads_do_not_share_a_connection_at_the_same_time(server: Server) -> None:
    with Client(server.url) as client, ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: client.request("GET", f"/{n}").status, range(200)))
    assert answers == [200] * 200
    assert server.connections <= 4


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_connection_that_the_server_closed_is_not_used_again(server: Server, method: str) -> None:
    server.closes = True
    with Client(server.url, retry=ONE_ATTEMPT) as client:
        for _ in range(2):
            assert client.request(method, "/", b"body").status == 200
            wait_until(lambda: not client.connected, what="the end of the connection")
    assert len(server.received) == 2


def test_a_close_instead_of_a_response_costs_no_attempt(server: Server) -> None:
    with Client(server.url, retry=ONE_ATTEMPT) as client:
        client.request("GET", "/")
        server.answers = [(CLOSE, {})]
        assert client.request("GET", "/").status == 200
        server.answers = [(CLOSE, {}), (CLOSE, {})]
        with pytest.raises(NoResponseError, match="RemoteDisconnected"):
            client.request("GET", "/")


def test_a_request_that_is_not_repeatable_is_sent_once(server: Server) -> None:
    with Client(server.url) as client:
        server.answers = [(CLOSE, {})]
        with pytest.raises(NoResponseError):
            client.request("PUT", "/", b"body")
        server.answers = [(503, {})]
        assert client.request("PUT", "/", b"body").status == 503
        server.answers = [(503, {})]
        assert client.request("GET", "/", repeatable=False).status == 503
    assert len(server.received) == 3


def test_nobody_listens() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", retry=ONE_ATTEMPT)
    assert not client.is_ready()
    with pytest.raises(NoResponseError, match="ConnectionRefusedError"):
        client.request("GET", "/")


def test_a_server_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        client = Client(url, retry=ONE_ATTEMPT, timeout=0.2)
        began = time.monotonic()
        with pytest.raises(NoResponseError, match="TimeoutError"):
            client.request("GET", "/")
        assert time.monotonic() - began < stretched(5)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """Answer one request with these bytes, then close. Yield the URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"200 OK\r\nContent-Length: 9\r\n\r\nhalf", "IncompleteRead"),
        (b"200 OK\r\nContent-Length: %d\r\n\r\n" % 2**62, "OverflowError|MemoryError"),
        (b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n", "ValueError"),
        (b"103 Early Hints\r\n\r\n", "RemoteDisconnected"),
        (b"101 Switching Protocols\r\n\r\nhello\r\n", "BadStatusLine"),
    ],
)
def test_a_response_that_is_not_complete(answer: bytes, problem: str) -> None:
    with answering(b"HTTP/1.1 " + answer) as url:
        with pytest.raises(NoResponseError, match=problem) as caught:
            Client(url, retry=ONE_ATTEMPT).request("PUT", "/")
        assert caught.value.sent


def test_a_response_after_early_hints() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    final = b"HTTP/1.1 201 Created\r\nContent-Length: 4\r\n\r\nbody"
    answer = b"HTTP/1.1 100 Continue\r\n\r\n" + hints * 2 + final
    with answering(answer) as url, Client(url) as client:
        response = client.request("PUT", "/")
    assert (response.status, response.body, response.headers["Link"]) == (201, b"body", None)


def test_a_refusal_of_a_body_that_was_not_read_is_a_response() -> None:
    """The server answers 413 and closes while the client still sends."""
    body = bytes(20_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 413 Large\r\nContent-Length: 0\r\n\r\n")
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

        thread = threading.Thread(target=answer)
        thread.start()
        with Client(f"http://127.0.0.1:{server.getsockname()[1]}", retry=ONE_ATTEMPT) as client:
            assert client.request("PUT", "/", body).status == 413
        thread.join()


@pytest.mark.parametrize("path", ["/with space", "/new\nline"])
def test_an_invalid_path_is_the_callers_mistake(server: Server, path: str) -> None:
    with Client(server.url) as client, pytest.raises(ValueError, match="path"):
        client.request("GET", path)
    assert server.received == []


def test_tls(server: Server, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    ensure_certificate(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    with Client(url.upper(), ca_file=certificate) as client:
        for _ in range(2):
            assert client.request("GET", "/").status == 200
    assert server.connections == 1
    with pytest.raises(FileNotFoundError):
        Client(url, ca_file=tmp_path / "missing.pem")


def test_a_client_certificate(server: Server, tmp_path: Path) -> None:
    """In one file with its key, or in two files."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    ensure_certificate(certificate, key)
    authority = Authority()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=authority.certificate.decode())
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_REQUIRED
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    one, two = _files(authority.issue("a"), tmp_path)
    for key_file in (None, two):
        with Client(url, ca_file=certificate, cert_file=one, key_file=key_file) as client:
            assert client.request("GET", "/").status == 200
    other, _ = _files(Authority().issue("a"), tmp_path / "other")
    for cert_file in (None, other):
        refused = Client(url, ca_file=certificate, cert_file=cert_file)
        # The server closes during the handshake. It has read none of the large body.
        for body in (b"", bytes(20_000_000)):
            with pytest.raises(NoResponseError, match="refuses the client certificate") as caught:
                refused.request("PUT", "/", body)
            assert not caught.value.sent
    with pytest.raises(FileNotFoundError):
        Client(url, cert_file=tmp_path / "missing.pem")
    with pytest.raises(OSError, match="KEY_VALUES_MISMATCH"):
        Client(url, cert_file=certificate, key_file=two)
    with pytest.raises(ValueError, match="key_file needs cert_file"):
        Client(url, key_file=two)
    with pytest.raises(ValueError, match="need an https URL"):
        Client(server.url, cert_file=one)


def _files(pair: Pair, folder: Path) -> tuple[Path, Path]:
    """Write a certificate with its key, and the key alone."""
    folder.mkdir(exist_ok=True)
    both, key = folder / "both.pem", folder / "key-of-client.pem"
    both.write_bytes(pair.certificate + pair.key)
    key.write_bytes(pair.key)
    return both, key
