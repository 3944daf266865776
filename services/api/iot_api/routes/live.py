"""The view of `POST /api/iot/live`: readings as server-sent events, while they are stored."""

import os
import socket
from functools import partial

from flask import Blueprint, Response, request

from iot_api.http.access import Access, needs
from iot_api.http.client_certificate import CLIENT_CERTIFICATE
from iot_api.http.request import CONNECTION, PasswordsForm, refuse_repeated, requesting_client
from iot_api.live.position import decode_position
from iot_api.live.stream import LiveStream
from iot_api.server.connection import Connection
from iot_api.service import Service
from iot_api.vaults.cache import CachedVault
from iot_models.errors import InvalidRequestError, NotFoundError, UnavailableError
from iot_models.scopes import Scope

from .readings import find_vault, record_of

_FORM = PasswordsForm("db_password", required=False, options=[("after", str, ""), ("last", int, 0)])
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


def live_blueprint(service: Service, access: Access) -> Blueprint:
    """Return the blueprint of `POST /api/iot/live`."""
    blueprint = Blueprint("live", __name__)

    @blueprint.post("/live")
    @needs(Scope.READ)
    def live() -> Response:
        return _live(service, access)

    return blueprint


def _live(service: Service, access: Access) -> Response:
    settings, hub = service.settings, service.live
    (password,), (after, last) = _FORM.receive_with_options(request.environ, settings)
    if last < 0:
        raise InvalidRequestError("last: must not be negative", field="last")
    cached = _open(service, password)
    position = None
    refuse_repeated(request.environ, "Last-Event-ID")
    last_event = request.headers.get("Last-Event-ID")
    if text := last_event or after:
        field = "Last-Event-ID" if last_event else "after"
        position = decode_position(field, text, cached.record.vault_id.bytes)
    elif last:
        position = hub.source.seconds_ago(min(last, settings.hot_window_seconds))
    authorization = request.headers.get("Authorization")
    certificate = request.environ.get(CLIENT_CERTIFICATE)
    client = requesting_client(settings)
    record = record_of(service, cached.vault, "live", client)
    still_allowed = partial(access.check, Scope.READ, authorization, certificate)
    connection: Connection | None = request.environ.get(CONNECTION)  # None in tests
    is_gone = (lambda: False) if connection is None else partial(_is_gone, connection)
    joined = hub.open(cached, client, position, still_allowed, is_gone)
    if connection is not None:
        connection.is_stream = True
    stream = LiveStream(hub, joined, record, heartbeat_seconds=settings.live_heartbeat_seconds)
    try:
        if record is not None:
            record.begin()
    except UnavailableError:
        stream.close()
        raise
    response = Response(stream.pieces(), mimetype="text/event-stream", headers=_HEADERS)
    response.call_on_close(stream.close)
    return response


def _open(service: Service, password: bytes) -> CachedVault:
    """Open the vault of a password if needed; return it with its record.

    Raises:
        NotFoundError: no vault has the password.
    """
    vault = find_vault(service, password)
    cached = None
    if vault is not None:
        key = service.vaults.cache.key(password)
        cached = service.vaults.cache.get(key)
    if cached is None:
        raise NotFoundError("db_password: no vault has this password", field="db_password")
    return cached


def _is_gone(connection: Connection) -> bool:
    """Return whether the client has closed the connection.

    With TLS, this may return False for a closed connection, because the client's last record,
    close_notify, looks like received data.
    """
    try:
        with socket.socket(fileno=os.dup(connection.client.fileno())) as duplicate:
            duplicate.setblocking(False)  # gevent's sockets wait in spite of MSG_DONTWAIT
            return not duplicate.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
