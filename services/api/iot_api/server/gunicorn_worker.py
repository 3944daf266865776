"""The gunicorn worker of the API: gunicorn's gevent worker, with deadlines and a quick shutdown.

gunicorn's own gevent worker (27.0) accepts no connection while `worker_connections` is reached. It
has no deadline for a client that sends nothing. At shutdown, it waits for such a client until
`graceful_timeout` has passed. It logs bytes that it can't parse.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import gevent
from gevent import socket
from gunicorn.http.errors import ParseException
from gunicorn.workers.ggevent import GeventWorker
from werkzeug.exceptions import RequestTimeout

from iot_api.http.cors import Cors, is_preflight
from iot_api.http.errors import error_response
from iot_api.http.malformed_requests import defect_response, refusal_of
from iot_api.http.request import new_request_id
from iot_api.http.responses import Headers, PlainResponse, status_line
from iot_api.http.security_headers import security_headers
from iot_api.http.unexpected_errors import log_defect
from iot_api.limits.clients import network_of
from iot_api.limits.memory_budget import MemoryBudget
from iot_models import metrics
from iot_models.errors import UnavailableError
from iot_models.origins import Origins

from . import deadlines
from .certificates import ServedCertificate
from .connection import Connection, PutHead
from .connection_table import ConnectionTable, too_many_connections
from .exchange import Exchange
from .handshake import shake_hands
from .listeners import close_listener, start_server
from .phase import Phase, count_closed
from .revocations import Revocations
from .unread_bodies import half_close

GRACE_SECONDS = 1.0
"""After SIGTERM, connections are accepted for this long. Then idle connections are closed."""
BODY_SECONDS = 5.0
"""After SIGTERM, bodies have this long to arrive."""
ABORT_SECONDS = 2.0
"""Answers are cut off this long before `graceful_timeout`, but not before half of it. At
`graceful_timeout`, gunicorn's master kills the worker. The kernel would then end the connections
normally, as after a complete answer."""
RESERVE = 64
"""Number of connections beyond the limit. On these, only health checks are answered."""
_HEALTH = frozenset({"/healthz", "/readyz"})
_BEAT_SECONDS = 0.1
"""Seconds between two heartbeats to gunicorn's master. SIGTERM is noticed at the next one."""
_ENFORCE_SECONDS = 0.25
"""Seconds between two checks of all deadlines. A timer for each request would cost more."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on the connections and the memory that all clients of one worker use together."""

    connections: int = 1000
    connections_per_network: int | None = None
    memory_bytes: int = 128 * 2**20


class Ingest(Protocol):
    """The part of the ingest endpoint that the worker uses."""

    def route_of(self, path: str) -> str | None:
        """Return the route of a path, None if the path does not accept PUTs of readings."""

    def answer(self, environ: dict[str, Any], route: str) -> PlainResponse:
        """Answer a PUT."""


class ApiWorker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    """A worker that closes slow and silent connections at their deadlines, or earlier to make room.

    After SIGTERM, every answer says `Connection: close` and ends its connection. The listener is
    closed `GRACE_SECONDS` after SIGTERM. A connection is closed once it has been idle for
    `GRACE_SECONDS`; a request that has arrived by then is answered. A request whose body has not
    arrived `BODY_SECONDS` after SIGTERM is answered 503. Answers may take until `ABORT_SECONDS`
    before `graceful_timeout`. Then the connections that still wait for an answer are reset.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Make settings plain attributes: gunicorn 27 looks a setting up and parses it at each use,
        # many times per request.
        values = {name: setting.get() for name, setting in self.cfg.settings.items()}
        self.cfg.__dict__.update(values)
        self.put_heads: dict[bytes, PutHead] = {}
        self._enforce_at = 0.0
        self._revocations: Revocations | None = None
        self.on_shutdown: Callable[[], object] = lambda: None
        """Called at SIGTERM. Ends live streams, which would never end by themselves."""
        self.limit(Limits())
        self.allow(Origins())

    def patch(self) -> None:
        """Replace the listeners with sockets of gevent.

        gunicorn's own method also patches all modules. `gunicorn_conf` has done that, and doing it
        again takes 0.1 s of CPU time in each worker.
        """
        self.sockets: list[Any] = [
            socket.socket(each.family, socket.SOCK_STREAM, fileno=each.detach())
            for each in self.sockets
        ]

    def limit(self, limits: Limits) -> None:
        """Set the limits. Called before the first connection."""
        self.memory = MemoryBudget(limits.memory_bytes)
        self._connections = ConnectionTable(
            limit=limits.connections, per_network=limits.connections_per_network, reserve=RESERVE
        )

    def check_revocations(self, lists: str) -> None:
        """Set the path of the revocation lists. Called before the first connection."""
        self._revocations = Revocations(Path(lists))

    def allow(self, origins: Origins) -> None:
        """Set the origins whose web pages may read responses that the worker itself writes."""
        self._cors = Cors(origins)
        self._refuse = self._cors.wrap(_refuse)

    @property
    def ingest(self) -> Ingest | None:
        """The endpoint that answers PUTs without WSGI, None if the app has none."""
        entrance = getattr(self.wsgi, "wsgi_app", None)
        return getattr(entrance, "ingest", None)

    def run(self) -> None:
        """Serve until SIGTERM."""
        certificate = ServedCertificate(self.cfg, self._revocations) if self.cfg.is_ssl else None
        servers: list[Any] = []
        while self.alive:
            self.notify()
            if certificate is not None:
                certificate.refresh(time.monotonic())
            if not servers and (certificate is None or certificate.is_loaded):
                servers = [start_server(each, certificate, self.handle) for each in self.sockets]
            self._enforce_deadlines()
            metrics.flush()
            gevent.sleep(_BEAT_SECONDS)
        self._end(servers)
        metrics.flush()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one connection, in its own greenlet."""
        connection = Connection(client, network_of(addr[0] if addr else ""))
        self._connections.add(connection)
        exchange = Exchange(self, connection, addr, listener.getsockname())
        try:
            if self.cfg.is_ssl:
                connection.certificate = shake_hands(client, exchange.host, self._revocations)
            exchange.run()
        except StopIteration:
            # The client, a deadline or a shutdown has ended the connection.
            if not (self.alive or connection.closing or connection.phase is Phase.LINGERING):
                half_close(connection, shuts_down=True)
            elif connection.phase is not Phase.LINGERING:
                connection.send_close_notify()
        except OSError:
            pass  # either side has ended the connection
        except ParseException as error:
            # The message is left out: it quotes the bytes that could not be parsed.
            self.log.warning("refused a request from %s: %s", exchange.host, type(error).__name__)
            _send_last(exchange, refusal_of(error, self._added_headers(connection)))
        except Exception as error:  # noqa: BLE001 - the application answers its own errors
            log_defect(self.log, "defect in the answer to a request", error)
            _send_last(exchange, defect_response(self._added_headers(connection)))
        finally:
            self._connections.remove(connection)
            self.memory.release(connection)
            with suppress(OSError):
                client.close()

    def answer_from_reserve(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer health checks, and refuse all other requests.

        This is the WSGI app for connections in the reserve of `ConnectionTable`.
        """
        app = self.wsgi if _is_health_check(environ) else self._refuse
        return app(environ, start_response)

    def _added_headers(self, connection: Connection) -> Headers:
        """Return the CORS and security headers of a response of the worker itself."""
        cors = self._cors.without_origin
        if connection.request is not None:  # the head could be parsed
            origins = [value for name, value in connection.request.headers if name == "ORIGIN"]
            cors = self._cors.headers({"REQUEST_METHOD": "", "HTTP_ORIGIN": ",".join(origins)})
        return [*cors, *security_headers(tls=bool(self.cfg.is_ssl))]

    def _enforce_deadlines(self) -> None:
        now = time.monotonic()
        if now < self._enforce_at:
            return
        self._enforce_at = now + _ENFORCE_SECONDS
        self._connections.export()
        for connection in self._connections:
            if deadlines.is_overdue(connection, now, self.cfg.keepalive):
                late = RequestTimeout("the body took too long to arrive")
                self._connections.close(connection, late, reason=connection.phase.name.lower())

    def _end(self, servers: list[Any]) -> None:
        begin = time.monotonic()
        self.on_shutdown()
        listening = True
        longest = self.cfg.graceful_timeout
        end = max(longest - ABORT_SECONDS, longest / 2)
        while (age := time.monotonic() - begin) < end:
            if listening and age >= GRACE_SECONDS:
                for server in servers:
                    close_listener(server)
                listening = False
            if not listening and not self._connections:
                break
            self._end_connections(begin, bodies=age >= BODY_SECONDS)
            self._enforce_deadlines()
            metrics.flush()
            self.notify()
            gevent.sleep(_BEAT_SECONDS)
        for connection in self._connections:
            if connection.phase is not Phase.LINGERING:
                connection.reset_at_close()
        for server in servers:
            server.stop(timeout=1)  # then kills the greenlets, which close their connections

    def _end_connections(self, begin: float, *, bodies: bool) -> None:
        for connection in self._connections:
            if connection.phase is Phase.LINGERING:
                continue
            if connection.request is None:
                if time.monotonic() - max(connection.since, begin) >= GRACE_SECONDS:
                    connection.end_idle(_process_ends())
                continue
            # The answer says `Connection: close`, unless its head is sent already.
            connection.request.force_close()
            connection.end_delay()
            if bodies:
                connection.cut_body(_process_ends())


def _process_ends() -> UnavailableError:
    return UnavailableError("this server process shuts down; send the request again")


def _is_health_check(environ: dict[str, Any]) -> bool:
    return environ["REQUEST_METHOD"] in {"GET", "HEAD"} and environ["PATH_INFO"] in _HEALTH


def _refuse(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer 503 as a WSGI app, with little CPU time: the process has too many connections.

    A CORS preflight is answered 204. The browser then sends the request, and can show why it was
    refused. Browsers do not show why a preflight was refused.
    """
    if is_preflight(environ):
        start_response("204 NO CONTENT", [("X-Request-Id", new_request_id())])
        return []
    count_closed("refused")
    request_id = new_request_id()
    status, headers, body = error_response(
        too_many_connections(), request_id, environ.get("HTTP_ACCEPT", "")
    )
    start_response(status_line(status), [*headers, ("X-Request-Id", request_id)])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _send_last(exchange: Exchange, answer: bytes) -> None:
    """Send an answer if the kernel takes it without waiting, and end the connection."""
    with suppress(OSError):
        exchange.writer.send_at_once(answer)
        half_close(exchange.connection, shuts_down=False)
