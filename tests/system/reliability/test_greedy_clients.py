"""A client that sends faster than the server reads delays no other client."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from iot_cipher.tokens import new_tokens_text
from support.stack import Stack, running_stack
from support.waiting import stretched

SECONDS = 3.0
"""How long the client sends. Other clients once waited for all of this time."""
QUICK_SECONDS = 2.0
"""Limit on the waiting time of other clients, for a busy machine."""
ENDLESS = b"Content-Length: 9000000000000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def api(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """One API process that refuses every token."""
    folder = tmp_path_factory.mktemp("greedy")
    tokens = folder / "tokens.json"
    tokens.write_text(new_tokens_text(), encoding="utf-8")
    more = {"IOT_TOKENS_FILE": str(tokens), "IOT_API_WORKERS": "1"}
    with running_stack({**module_environment, **more}, folder, writers=0) as stack:
        yield stack


@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"], ids=["keep", "close"])
@pytest.mark.parametrize(
    ("form", "content"),
    [(ENDLESS, bytes(2**17)), (CHUNKED, b"1\r\nx\r\n" * 20_000)],
    ids=["endless", "chunked"],
)
def test_an_endless_unread_body_delays_no_other_client(
    api: Stack, form: bytes, content: bytes, close: bytes
) -> None:
    head = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\n" + form + close + b"\r\n"
    assert slowest_of_others(api, head, content) < stretched(QUICK_SECONDS)


def test_endless_requests_delay_no_other_client(api: Stack) -> None:
    requests = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    assert slowest_of_others(api, b"", requests) < stretched(QUICK_SECONDS)


def slowest_of_others(api: Stack, head: bytes, content: bytes) -> float:
    """Return the longest time of /healthz while a client sends `content` repeatedly."""
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
    """Send until the time is over or the server closes, and discard the responses."""
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
