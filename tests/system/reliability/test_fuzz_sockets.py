"""Thousands of malformed requests on real sockets get no 5xx and kill no worker."""

import http.client
import itertools
import json
import os
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.stack import Stack, running_stack
from support.waiting import wait_until
from system.reliability.wire_fuzzing import Wire, wires

COUNT = 50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "deep" else 1_000
SEEDS = range(4)


@pytest.fixture
def fuzzed(environment: dict[str, str], tmp_path: Path) -> Iterator[Stack]:
    """The API and a writer."""
    with running_stack(environment | {"IOT_GUESS_LIMIT": "0"}, tmp_path) as stack:
        yield stack


@dataclass(frozen=True)
class Got:
    """A response, from the app or from gunicorn."""

    status: int
    by_app: bool
    media_type: str
    body: bytes


def send(port: int, wire: Wire) -> Got | None:
    """Send and half-close. Return None if the server closes without a response."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for part in wire.parts:
                client.sendall(part)
            client.shutdown(socket.SHUT_WR)
            method = "HEAD" if wire.is_head else None
            with http.client.HTTPResponse(client, method=method) as answer:
                answer.begin()
                body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        by_app = "X-Request-Id" in answer.headers
        return Got(answer.status, by_app, answer.headers.get_content_type(), body)


def check(wire: Wire, got: Got | None) -> int:
    """Check a response, and return its status, 0 without a response."""
    if got is None:
        assert not wire.whole, wire
        return 0
    assert got.status < 500, (wire, got)
    if got.by_app and got.status >= 400 and not wire.is_head:
        assert got.media_type == "application/json", (wire, got)
        assert json.loads(got.body)["error"]
    return got.status


def test_malformed_bytes_kill_no_worker(fuzzed: Stack) -> None:
    assert fuzzed.api is not None
    wait_until(lambda: len(fuzzed.workers()) == 2, what="both workers")
    before = fuzzed.workers()
    statuses: Counter[int] = Counter()
    with ThreadPoolExecutor(4) as pool:
        for seed in SEEDS:
            sent = list(itertools.islice(wires(seed), COUNT))
            answers = pool.map(lambda wire: send(fuzzed.port, wire), sent)
            statuses.update(map(check, sent, answers))
    print(dict(sorted(statuses.items())))
    assert {200, 201, 400, 404, 405, 415, 431} <= set(statuses)
    assert fuzzed.workers() == before
    rows = [{"data": {"db_password": "after", "freeform": "all of it"}}]
    assert fuzzed.put(rows).status == 201
    read = wait_until(lambda: fuzzed.read("after"), what="the reading that came after")
    assert [each["freeform"] for each in read] == ['"all of it"']
    writers_end = [writer.poll() for writer in fuzzed.writers]
    assert writers_end == [None]
