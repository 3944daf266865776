"""The log of requests: errors, refusals and slow requests, or all requests (`IOT_LOG_REQUESTS`).

An event names the route, never the path: a path may contain a password.
"""

import logging
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from iot_models import tracing
from iot_models.errors import ErrorCode, TooManyRequestsError
from iot_models.logs import EventLimit
from iot_models.settings import Settings

from .request import Answered, client_of

LOGGED = "iot_api.logged"
"""Key in the WSGI environ: a `Logged`, which has further fields for the log event."""
REFUSED = "iot_api.refused"
"""Key in the WSGI environ: fields that name the error."""
EVENTS, EVENTS_SECONDS = 20, 10.0
"""Maximum number of events with the same route and status that a process logs in a period of
`EVENTS_SECONDS`. Slow requests are counted separately."""
_MAX_LISTED = 100

_log = logging.getLogger(__name__)


class Logged(Protocol):
    """Details of a request. `log_fields` is called only if the request is logged."""

    def log_fields(self) -> Mapping[str, object]:
        """Return fields for the log event of the request."""


@dataclass(frozen=True, slots=True)
class LoggedRead:
    """The vault that a request reads, for the log event of the request."""

    vault_id: uuid.UUID

    def log_fields(self) -> Mapping[str, object]:
        """Return the vault's id as a field for the log event."""
        return {"vault": str(self.vault_id)}


class RequestLog:
    """Logs all requests (`IOT_LOG_REQUESTS=1`), or only failed and slow requests.

    Of failed and slow requests, it logs at most `EVENTS` of each kind (route, status, whether slow)
    in `EVENTS_SECONDS`. `IOT_LOG_REQUESTS=1` lifts this limit.
    """

    def __init__(self, settings: Settings) -> None:
        self.logs_all = bool(settings.log_requests)
        slow = settings.log_slow_milliseconds / 1000
        self._slow_from = slow or float("inf")
        self.logged_from = 0.0 if self.logs_all else self._slow_from
        """A request that succeeds is logged if it took at least this many seconds."""
        self._trusted_proxies = settings.trusted_proxies
        self._limit = EventLimit(EVENTS, EVENTS_SECONDS)

    def add(self, answered: Answered, environ: Mapping[str, Any]) -> None:
        """Log a request. Call this only if it failed or took at least `logged_from` seconds."""
        status, seconds = answered.status, answered.seconds
        is_slow = seconds is not None and seconds >= self._slow_from
        level = logging.WARNING if status >= 500 or is_slow else logging.INFO
        if not _log.isEnabledFor(level):
            return
        fields: dict[str, Any] = {
            "request_id": answered.request_id,
            "method": answered.method,
            "route": answered.route,
            "status": status,
            "client": client_of(environ, self._trusted_proxies).name,
        }
        if seconds is not None:
            fields["duration_ms"] = round(seconds * 1000, 2)
        left_out = 0 if self.logs_all else self._limit.admit((answered.route, status, is_slow))
        if left_out is None:
            return
        fields |= _known(environ)
        if left_out:
            fields["similar_left_out"] = left_out
        _log.log(level, _sentence(status, is_slow=is_slow), extra=fields)


def listed(names: Iterable[object]) -> list[str]:
    """Return the first `_MAX_LISTED` names, as a field of a log event."""
    return [str(name) for name in islice(names, _MAX_LISTED)]


def _known(environ: Mapping[str, Any]) -> dict[str, object]:
    logged: Logged | None = environ.get(LOGGED)
    known = {} if logged is None else logged.log_fields()
    trace_id = tracing.trace_id()
    traced = {"trace_id": trace_id} if trace_id else {}
    return {**known, **environ.get(REFUSED, {}), **traced}


def note_error(environ: dict[str, Any], code: ErrorCode, error: Exception) -> None:
    """Keep the code of an error answer for the log event of the request.

    The error itself is not kept, because its traceback holds the request's frames, and so the body.
    """
    environ[REFUSED] = {"code": str(code)}
    if isinstance(error, TooManyRequestsError):
        environ[REFUSED]["reason"] = str(error.reason)


def _sentence(status: int, *, is_slow: bool) -> str:
    if status >= 500:
        return "a request failed"
    if status >= 400:
        return "a request was refused"
    return "a request was slow" if is_slow else "a request was answered"
