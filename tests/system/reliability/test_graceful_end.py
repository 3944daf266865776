"""Graceful shutdown of gunicorn, for each kind of connection."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from support.answers import answer_of
from support.stack import Stack, running_stack
from support.waiting import stretched, wait_until

JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"data": {"db_password": "slow", "freeform": "x"}})
END_SECONDS = 15.0
"""Limit on the shutdown of idle workers, for a busy machine. gunicorn's timeout is 30 s."""
QUICK_SECONDS = 10.0
"""Limit on the time of a quick request, for a busy machine."""
BODY_SECONDS = 5.0
"""Time for a body during shutdown, `iot_api.server.gunicorn_worker.BODY_SECONDS`."""


@pytest.fixture(scope="module")
def processes(
    module_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """The processes of `api`."""
    logs = tmp_path_factory.mktemp("api")
    with running_stack(module_environment, logs, writers=0, metrics=True) as stack:
        yield stack


@pytest.fixture
def api(processes: Stack) -> Stack:
    """The API, which the tests share. The next test starts another one after a shutdown."""
    if not processes.answers():
        processes.stop()
        processes.start_api()
    return processes


def connect(stack: Stack, resources: ExitStack) -> http.client.HTTPConnection:
    """Return an open connection that has received one response."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)
    resources.callback(connection.close)
    connection.request("GET", "/healthz")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
    answer.read()
    return connection


def begun(stack: Stack, resources: ExitStack) -> socket.socket:
    """Return a connection without a request."""
    address = ("127.0.0.1", stack.port)
    return resources.enter_context(socket.create_connection(address, timeout=30))


def slow_body(
    stack: Stack, resources: ExitStack, head: bytes = b"Content-Length: 1000"
) -> socket.socket:
    """Return a connection with an incomplete body."""
    client = begun(stack, resources)
    client.sendall(b"PUT /api/iot HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
    return client


def send_sigterm(stack: Stack) -> float:
    """Send SIGTERM, and return the time."""
    assert stack.api is not None
    stack.api.terminate()
    return time.monotonic()


def seconds_to_end(stack: Stack, began: float) -> float:
    assert stack.api is not None
    assert stack.api.wait(40) == 0
    return time.monotonic() - began


def test_slow_bodies_and_heads_delay_no_other_client(api: Stack, resources: ExitStack) -> None:
    slow = [slow_body(api, resources) for _ in range(300)]
    slow += [begun(api, resources) for _ in range(300)]
    for client in slow:
        client.sendall(b"P")
    with ThreadPoolExecutor(8) as pool:
        took = sorted(pool.map(lambda _: timed_put(api), range(200)))
    print(f"with 600 slow clients a PUT took {took[100]:.3f} s, the slowest {took[-1]:.3f} s")
    assert took[-1] < stretched(QUICK_SECONDS)


def timed_put(stack: Stack) -> float:
    began = time.monotonic()
    assert stack.request("PUT", "/api/iot", BODY, JSON).status == 201
    return time.monotonic() - began


def test_an_early_response_survives_unread_bytes(api: Stack, resources: ExitStack) -> None:
    """A 404 precedes the body. A close with unread bytes would reset the connection."""
    for _ in range(20):
        client = begun(api, resources)
        client.sendall(b"PUT /none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n")
        client.sendall(b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
        assert answer_of(client)[0] == 404


def test_idle_connections_are_closed_quickly_without_a_reset(
    api: Stack, resources: ExitStack
) -> None:
    idle = [connect(api, resources) for _ in range(50)]
    fresh = [begun(api, resources) for _ in range(5)]
    took = seconds_to_end(api, send_sigterm(api))
    print(f"with 55 idle connections gunicorn ended in {took:.2f} s")
    assert took < stretched(END_SECONDS)
    for client in [*(each.sock for each in idle), *fresh]:
        assert client.recv(1) == b""


def test_every_request_sent_before_the_close_is_answered(api: Stack, resources: ExitStack) -> None:
    """At every moment of the shutdown, a request is sent on a connection that was still open."""
    idle = [connect(api, resources) for _ in range(400)]
    began = send_sigterm(api)
    answered = 0
    for number, connection in enumerate(idle):
        wait_until(lambda n=number: time.monotonic() - began > n / 300, what="its time")  # type: ignore[misc]
        connection.sock.setblocking(False)
        try:
            found_open = connection.sock.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            found_open = True
        if not found_open:
            break
        connection.sock.setblocking(True)
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        assert answer.status == 200
        answered += 1
    assert answered > 5
    assert answer.getheader("Connection") == "close"
    assert seconds_to_end(api, began) < stretched(END_SECONDS)


def test_started_requests_are_completed(api: Stack, resources: ExitStack) -> None:
    writer = api.start_writer()
    resources.callback(writer.stop)
    rows = [{"data": {"db_password": "p", "freeform": "x" * 400}}] * 10_000
    for _ in range(3):
        assert api.put(rows).status == 201
    wait_until(lambda: len(api.read("p")) == 30_000, what="all readings")
    reader = connect(api, resources)
    reader.request("POST", "/api/iot", json.dumps({"data": {"db_password": "p"}}), JSON)
    answer = reader.getresponse()
    begin = answer.read(1000)
    client = slow_body(api, resources, b"Content-Length: %d" % len(BODY))
    began = send_sigterm(api)
    # By now, idle connections and the listener are closed.
    wait_until(lambda: refused(api), what="a closed listener")
    client.sendall(BODY.encode())
    assert answer_of(client)[0] == 201
    assert len(json.loads(begin + answer.read())["data"]) == 30_000
    assert seconds_to_end(api, began) < stretched(END_SECONDS + BODY_SECONDS)


def refused(stack: Stack) -> bool:
    try:
        socket.create_connection(("127.0.0.1", stack.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_slow_bodies_delay_the_shutdown_up_to_a_limit(api: Stack, resources: ExitStack) -> None:
    heads = [b"Content-Length: 1000", b"Transfer-Encoding: chunked"] * 10
    slow = [slow_body(api, resources, head) for head in heads]
    wait_until(lambda: api.request("GET", "/healthz").status == 200, what="an answer")
    took = seconds_to_end(api, send_sigterm(api))
    print(f"with 20 slow bodies gunicorn ended in {took:.2f} s")
    assert took < stretched(BODY_SECONDS + END_SECONDS)
    for client in slow:
        status, headers, body = answer_of(client)
        assert (status, headers["Connection"], headers["Retry-After"]) == (503, "close", "1")
        assert json.loads(body)["code"] == "unavailable"
