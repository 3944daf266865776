"""Clients that send or read almost nothing are closed and delay no other client."""

import http.client
import json
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from iot_sensor_client import Client
from iot_tools.local.certificate import ensure_certificate
from support.answers import answer_of
from support.stack import Stack
from support.waiting import wait_until

TESTS = Path(__file__).parents[2]
PATIENCE = 30
"""Seconds after which a connection counts as kept open."""
QUICK_SECONDS = 20.0
"""Limit on the time that other clients wait on a busy machine. Before the fix, they waited 73 s."""
JSON = {"Content-Type": "application/json"}
BODY = json.dumps({"data": {"db_password": "p", "freeform": "x"}}).encode()
HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
PUT = b"PUT /api/iot HTTP/1.1\r\nHost: x\r\n"
READ = json.dumps({"data": {"db_password": "long"}}).encode()
LONG_READ = (
    b"POST /api/iot HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    % (len(READ), READ)
)

ESTABLISHED, CLOSE_WAIT = "01", "08"
"""States in /proc/net/tcp."""

Api = Callable[..., Stack]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path, resources: ExitStack) -> Api:
    """A function that starts the API. The deadlines are short unless `patient`."""

    def make(*, patient: bool = False, **settings: str) -> Stack:
        stack = Stack({**environment, "PYTHONPATH": str(TESTS), **settings}, tmp_path)
        resources.callback(stack.stop)
        stack.start_api(*([] if patient else ["--config", "python:support.impatient_gunicorn"]))
        return stack

    return make


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Allow thousands of sockets in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(stack: Stack, resources: ExitStack, sent: bytes = b"") -> socket.socket:
    """Open a connection and send these bytes."""
    address = ("127.0.0.1", stack.port)
    client = resources.enter_context(socket.create_connection(address, timeout=PATIENCE))
    client.sendall(sent)
    return client


def status_of(stack: Stack, path: str = "/healthz") -> int:
    """Return the status of a GET on a new connection. A slow response raises `TimeoutError`."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=QUICK_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def open_connections(stack: Stack) -> int:
    """Return the number of connections that the API has not closed, from /proc/net/tcp."""
    lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
    fields = [line.split() for line in lines]
    at_api = [each[3] for each in fields if each[1].endswith(f":{stack.port:04X}")]
    return sum(state in {ESTABLISHED, CLOSE_WAIT} for state in at_api)


@pytest.mark.usefixtures("_many_files")
def test_idle_partial_heads_leave_room_for_others(start: Api, resources: ExitStack) -> None:
    """The deadlines are the defaults, and the connections exceed the limit of both processes."""
    api = start(patient=True)
    device = http.client.HTTPConnection("127.0.0.1", api.port, timeout=QUICK_SECONDS)
    resources.callback(device.close)
    for number in range(2100):
        connect(api, resources, HEAD)
        if number % 100 == 0:
            device.request("PUT", "/api/iot", BODY, JSON)
            assert device.getresponse().read() == b'{"success":"1 object(s) created"}\n'
    assert [status_of(api, path) for path in ("/healthz", "/readyz") * 10] == [200] * 20
    for _ in range(20):
        device.request("PUT", "/api/iot", BODY, JSON)
        assert device.getresponse().read() == b'{"success":"1 object(s) created"}\n'


def test_slow_and_silent_peers_are_closed(start: Api, resources: ExitStack) -> None:
    """Other clients are answered while twelve clients of each kind are connected."""
    api = start(IOT_API_WORKERS="1", IOT_HOT_WINDOW_SECONDS="0")
    fill(api, "long")
    silent = [connect(api, resources, sent) for sent in (b"", HEAD) for _ in range(12)]
    bodies = [connect(api, resources, PUT + b"Content-Length: 90000\r\n\r\n{") for _ in range(12)]
    trickled = [connect(api, resources, sent) for sent in (HEAD + b"X: ", slow_chunks()) * 6]
    deaf = [small_window(api, resources, LONG_READ) for _ in range(12)]
    deaf += [small_window(api, resources, b"") for _ in range(12)]
    done = threading.Event()
    resources.callback(done.set)
    for client in trickled:
        resources.callback(in_thread(trickle, client, done).join)
    for client in deaf[12:]:
        resources.callback(in_thread(pipeline, client).join)
    assert status_of(api) == 200
    for client in silent:
        assert client.recv(1) == b""
    for client in bodies:
        status, headers, body = answer_of(client)
        assert (status, headers["Connection"]) == (408, "close")
        assert json.loads(body)["code"] == "invalid_request"
    wait_until(lambda: not open_connections(api), seconds=PATIENCE, what="closed connections")
    done.set()
    assert status_of(api) == 200
    assert api.request("PUT", "/api/iot", BODY, JSON).status == 201


def fill(api: Stack, password: str) -> None:
    """Store readings whose response is larger than the kernel's buffers."""
    api.start_writer()
    rows = [{"data": {"db_password": password, "freeform": "x" * 2000}}] * 5000
    assert api.put(rows).status == 201
    wait_until(lambda: api.read(password, "/last/1"), what="the readings")


def slow_chunks() -> bytes:
    return PUT + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"


def small_window(api: Stack, resources: ExitStack, sent: bytes) -> socket.socket:
    """Return a client with a small receive buffer that never reads."""
    client = resources.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE)
    client.connect(("127.0.0.1", api.port))
    client.sendall(sent)
    return client


def in_thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments)
    thread.start()
    return thread


def trickle(client: socket.socket, done: threading.Event) -> None:
    """Send single bytes of a head or a chunk until the server closes."""
    with suppress(OSError):
        while not done.wait(0.1):
            client.sendall(b"1")


def pipeline(client: socket.socket) -> None:
    """Send requests until the server closes."""
    with suppress(OSError):
        while True:
            client.sendall((HEAD + b"\r\n") * 1000)


def test_health_checks_pass_beside_busy_connections(start: Api, resources: ExitStack) -> None:
    """No connection is idle, so the server closes none of them for new clients."""
    api = start(IOT_API_WORKERS="1", IOT_API_CONNECTIONS="8", IOT_API_CONNECTIONS_PER_ADDRESS="8")
    done = threading.Event()
    resources.callback(done.set)
    for _ in range(8):
        client = connect(api, resources, PUT + b"Content-Length: 9000000\r\n\r\n")
        resources.callback(in_thread(stream, client, done).join)
    wait_until(lambda: api.request("GET", "/api/iot/maxtime").status == 503, what="a full process")
    assert [status_of(api, path) for path in ("/healthz", "/readyz") * 5] == [200] * 10
    answer = api.request("PUT", "/api/iot", BODY, JSON)
    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("1", "close")
    done.set()
    wait_until(
        lambda: api.request("PUT", "/api/iot", BODY, JSON).status == 201, what="room for others"
    )


def stream(client: socket.socket, done: threading.Event) -> None:
    """Send a body steadily until the server closes."""
    with client, suppress(OSError):
        while not done.wait(0.05):
            client.sendall(b" " * 1000)


def test_an_address_at_its_limit_loses_only_its_own_connections(
    start: Api, resources: ExitStack
) -> None:
    """127.0.0.2 keeps its connections when 127.0.0.1 opens too many."""
    api = start(patient=True, IOT_API_WORKERS="1", IOT_API_CONNECTIONS="16")
    address = ("127.0.0.1", api.port)
    other = resources.enter_context(
        socket.create_connection(address, timeout=PATIENCE, source_address=("127.0.0.2", 0))
    )
    greedy = [connect(api, resources) for _ in range(30)]
    for client in greedy[:20]:
        assert client.recv(1) == b""
    other.sendall(HEAD + b"\r\n")
    assert answer_of(other)[0] == 200
    greedy[-1].sendall(HEAD + b"\r\n")
    assert answer_of(greedy[-1])[0] == 200


def test_the_address_of_a_proxy_has_no_connection_limit(start: Api, resources: ExitStack) -> None:
    api = start(
        patient=True,
        IOT_API_WORKERS="1",
        IOT_API_CONNECTIONS="16",
        IOT_TRUSTED_PROXIES="1",
    )
    held = [connect(api, resources) for _ in range(12)]
    for client in held:
        client.sendall(HEAD + b"\r\n")
        assert answer_of(client)[0] == 200


def test_slow_tls_peers_are_closed(
    environment: dict[str, str], tmp_path: Path, resources: ExitStack
) -> None:
    """The peers pipeline requests and never read, or stop during the handshake."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    ensure_certificate(certificate, key)
    tls = ssl.create_default_context(cafile=str(certificate))
    ours = {"IOT_TLS_CERTIFICATE": str(certificate), "IOT_TLS_KEY": str(key)}
    api = TlsStack({**environment, **ours, "PYTHONPATH": str(TESTS)}, tmp_path)
    api.tls = tls
    resources.callback(api.stop)
    api.start_api("--config", "python:support.impatient_gunicorn")
    halves = [connect(api, resources, sent) for sent in (b"", b"\x16\x03\x01\x02\x00\x01") * 3]
    for _ in range(4):
        plain = small_window(api, resources, b"")
        client = resources.enter_context(tls.wrap_socket(plain, server_hostname="localhost"))
        resources.callback(in_thread(pipeline, client).join)
    for half in halves:
        assert half.recv(1) == b""
    wait_until(lambda: not open_connections(api), seconds=PATIENCE, what="closed connections")
    assert api.request("GET", "/healthz").status == 200


class TlsStack(Stack):
    """A stack with TLS."""

    tls: ssl.SSLContext

    def _client(self, port: int) -> Client:
        return Client(f"https://127.0.0.1:{port}", tls_context=self.tls, timeout=PATIENCE)
