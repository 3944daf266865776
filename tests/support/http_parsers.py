"""Functions from bytes to requests: one with gunicorn's parser, one with the API's `Exchange`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from gunicorn.config import Config
from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ParseException, UnsupportedTransferCoding
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.http.wsgi import Response, create

from iot_api.http.responses import PlainResponse
from iot_api.limits.memory_budget import MemoryBudget
from iot_api.server.connection import Connection, PutHead, PutRequest
from iot_api.server.exchange import Exchange
from iot_api.server.gunicorn_worker import ApiWorker

PEER, LISTENER = ("192.0.2.1", 4000), ("192.0.2.2", 8000)
_VARIABLES = {
    "CONTENT_LENGTH",
    "CONTENT_TYPE",
    "PATH_INFO",
    "QUERY_STRING",
    "RAW_URI",
    "REMOTE_ADDR",
    "REQUEST_METHOD",
    "SERVER_PROTOCOL",
}


@dataclass(frozen=True)
class Found:
    """A request as an app sees it, or the reason why the connection ended."""

    error: str = ""
    """Class name of the error that the head or the body raised; "" if none."""
    request: tuple[Any, ...] = ()
    environ: tuple[tuple[str, Any], ...] = ()
    body: bytes | None = None


@dataclass
class Client:
    """A socket whose client sends `pieces` and then the end of the stream."""

    pieces: list[bytes]
    sent: bytearray = field(default_factory=bytearray)

    def recv(self, size: int) -> bytes:
        if not self.pieces:
            return b""
        piece = self.pieces.pop(0)
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def settimeout(self, _: float | None) -> None:
        """Never blocks."""

    def fileno(self) -> int:
        raise OSError


def config(**changes: Any) -> Config:
    """Return gunicorn's configuration with the settings as attributes, as the worker has them."""
    made = Config()
    for name, value in {"forwarded_allow_ips": "", **changes}.items():
        made.set(name, value)
    made.__dict__.update({name: setting.get() for name, setting in made.settings.items()})
    return made


class _Request(Request):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's request, which reads lists in `Connection` headers (`TE, close`)."""

    def should_close(self) -> bool:
        """Return whether the request is the last of its connection (RFC 9112, 9.3)."""
        joined = ",".join(value for name, value in self.headers if name == "CONNECTION")
        if "," not in joined:
            return bool(super().should_close())
        options = {each.strip() for each in joined.lower().split(",")}
        if self.must_close or self.method == "CONNECT" or "close" in options:
            return True
        return self.version == (1, 0) and "keep-alive" not in options


class _Parser(RequestParser):  # type: ignore[misc] # gunicorn has no types
    mesg_class = _Request


def found(request: Any, environ: dict[str, Any], read: Callable[[], bytes]) -> Found:
    """Return a request with its body."""
    if isinstance(request, PutRequest):
        request, closes, expects = request.head, request.must_close, request.head.expects_continue
    else:
        closes = request.should_close()
        # gunicorn's own `Request` has no `expects_continue`.
        expects = getattr(request, "expects_continue", request._expected_100_continue)  # noqa: SLF001
    body, error = None, ""
    try:
        body = read()
    except (ParseException, OSError) as failure:
        error = type(failure).__name__
    parts = (
        request.version, tuple(request.headers), closes, expects,
        getattr(request, "scheme", "http"), tuple(getattr(request, "trailers", None) or ()),
    )  # fmt: skip
    named = {
        key: value for key, value in environ.items() if key in _VARIABLES or key.startswith("HTTP_")
    }
    return Found(error, parts, tuple(sorted(named.items())), body)


def by_gunicorn(cfg: Config, pieces: Sequence[bytes]) -> list[Found]:
    """Return the requests that gunicorn's own parser finds in `pieces`."""
    parser = _Parser(cfg, Client(list(pieces)), PEER)
    requests: list[Found] = []
    try:
        for request in parser:
            if isinstance(request.body.reader, ChunkedReader):
                codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
                if [coding.strip().lower() for coding in codings] != ["chunked"]:
                    raise UnsupportedTransferCoding("")
            _, environ = create(request, Client([]), PEER, LISTENER, cfg, Response)
            requests.append(found(request, environ, request.body.read))
            if requests[-1].error:
                break
    except (OSError, ParseException) as error:
        requests.append(Found(type(error).__name__))
    return requests


class Server:
    """A worker for an `Exchange`. It records each request, and answers without content."""

    alive = True

    def __init__(self, cfg: Config) -> None:
        self.cfg = cfg
        self.memory = MemoryBudget(2**30)
        self.requests: list[Found] = []
        self.put_heads: dict[bytes, PutHead] = {}
        self.heads: list[PutHead] = []
        """The parsed PUTs of readings."""
        self.exchange: Any = None

    @property
    def ingest(self) -> Any:
        return SimpleNamespace(route_of=self.route_of, answer=self.answer_put)

    def route_of(self, path: str) -> str | None:
        return path if path == "/api/iot" else None

    def wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        request = self.exchange.connection.request
        self.requests.append(found(request, environ, request.body.read))
        start_response("200 OK", [("Content-Length", "0")])
        return []

    def answer_put(self, environ: dict[str, Any], _: str) -> PlainResponse:
        request = self.exchange.connection.request
        self.heads.append(request.head)
        self.requests.append(found(request, environ, lambda: environ["wsgi.input"].read(2**30)))
        return PlainResponse(201, [], b"")


def by_exchange(server: Server, pieces: Sequence[bytes]) -> list[Found]:
    """Return the requests that the API's `Exchange` finds in `pieces`."""
    connection = Connection(Client(list(pieces)), "")  # type: ignore[arg-type]
    worker = cast("ApiWorker", server)
    server.exchange = Exchange(worker, connection, PEER, LISTENER)
    try:
        server.exchange.run()
    except StopIteration:
        pass
    except (OSError, ParseException) as error:
        server.requests.append(Found(type(error).__name__))
    return server.requests
