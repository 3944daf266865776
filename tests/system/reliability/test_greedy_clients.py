"""A client that sends faster than it is read keeps nobody else waiting."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from iot_cipher.tokens import new_tokens_text
from support.stack import Stack

SECONDS = 4.0
"""For so long it sends; others waited for all of it once."""
QUICK_SECONDS = 2.0
"""What others may wait, also on a busy machine."""
ENDLESS = b"Content-Length: 9000000000000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def api(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """One API process, and no token that lets anybody in."""
    tokens = tmp_path / "tokens.json"
    tokens.write_text(new_tokens_text(), encoding="utf-8")
    more = {"IOT_TOKENS_FILE": str(tokens), "IOT_API_WORKERS": "1"}
    stack = Stack({**environment, **more}, tmp_path)
    try:
        stack.start_api()
        yield stack
    finally:
        stack.stop()


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["keep", "close"])
@pytest.mark.parametrize(
    ("form", "content"),
    [(ENDLESS, bytes(2**17)), (CHUNKED, b"1\r\nx\r\n" * 20_000)],
    ids=["endless", "chunked"],
)
def test_an_unread_body_without_end(api: Stack, form: bytes, content: bytes, close: bytes) -> None:
    head = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\n" + form + close + b"\r\n"
    assert slowest_of_others(api, head, content) < QUICK_SECONDS


def test_requests_without_end(api: Stack) -> None:
    requests = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    assert slowest_of_others(api, b"", requests) < QUICK_SECONDS


def slowest_of_others(api: Stack, head: bytes, content: bytes) -> float:
    """The longest that /healthz took while a client sent `content` over and over."""
    greedy = threading.Thread(target=send, args=(api.port, head, content))
    greedy.start()
    slowest = 0.0
    while greedy.is_alive():
        time.sleep(0.1)
        began = time.monotonic()
        assert api.request("GET", "/healthz").status == 200
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def send(port: int, head: bytes, content: bytes) -> None:
    """Send until the time is over or the server closes, and drop what is answered."""
    end = time.monotonic() + SECONDS
    with socket.create_connection(("127.0.0.1", port), timeout=1) as client, suppress(OSError):
        client.sendall(head)
        reader = threading.Thread(target=drop, args=(client,), daemon=True)
        reader.start()
        while time.monotonic() < end:
            client.send(content)


def drop(client: socket.socket) -> None:
    with suppress(OSError):
        while client.recv(2**16):
            pass
