"""Adds refused access, reached limits and changes of tokens to the audit log."""

import logging
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

from iot_api.limits.clients import Client
from iot_cipher.tokens import Grant, Tokens
from iot_models import metrics
from iot_models.audit_event import AuditEvent, AuditKind, audit_event
from iot_models.errors import ForbiddenError, IotError, TooManyRequestsError, UnauthorizedError
from iot_stores.store_states import report

from .events import AuditEvents
from .refusals import Counted, ReachedLimit, Refusal, RefusalCounter

TICK_SECONDS = 1.0
_STOP_SECONDS = 3.0
_MAX_TOKEN_EVENTS = 1000
"""Maximum number of changes of tokens that wait to be recorded while Postgres is away. Further
changes are not recorded, only counted in `iot_audit_unrecorded_total`."""

_log = logging.getLogger(__name__)


class AccessAudit(threading.Thread):
    """A thread that adds counts of refused requests and changes of tokens to the audit log.

    `refused` and `limited` count a request; requests never wait for the thread. While Postgres is
    away, counts and changes stay in memory and are recorded later. A killed process loses what it
    has not recorded, for example the counts of the last minute.
    """

    def __init__(self, events: AuditEvents) -> None:
        super().__init__(name="access-audit", daemon=True)
        self._events = events
        self._refusals = RefusalCounter[Refusal]()
        self._limits = RefusalCounter[ReachedLimit]()
        self._tokens: Callable[[], Tokens] | None = None
        self._known: dict[str, Grant] = {}
        self._waiting: deque[AuditEvent] = deque()
        self._stopping = threading.Event()

    def follow(self, tokens: Callable[[], Tokens] | None) -> None:
        """From now on, record each change of the tokens that `tokens` returns.

        `tokens` is None if the service has no file of tokens. Then there are no changes to record.
        """
        self._tokens = tokens
        self._known = {} if tokens is None else _by_name(tokens())

    def refused(self, error: IotError, scope: str, token: str | None, client: Client) -> None:
        """Count a request that the access checks answered 401 or 403. Returns immediately."""
        address = client.fields["client"]
        refusal = Refusal(_reason(error), scope, token, str(address))
        self._refusals.count(refusal)

    def limited(self, error: TooManyRequestsError, token: str | None, client: Client) -> None:
        """Count a request that was answered 429. Returns immediately."""
        address = client.fields["client"]
        self._limits.count(ReachedLimit(str(error.reason), token, str(address)))

    def check(self, *, last: bool = False) -> None:
        """Record the changes of tokens, and the counts of refused requests.

        A count waits if an equal `Refusal` or `ReachedLimit` was recorded less than a minute ago.
        With `last`, all counts are recorded.

        Raises:
            psycopg.Error, IotError: the audit log can't be written; a later check records the rest.
        """
        self._note_token_changes()
        while self._waiting:
            self._events.record(self._waiting[0])
            self._waiting.popleft()
        self._record(AuditKind.ACCESS_REFUSED, self._refusals, all_waiting=last)
        self._record(AuditKind.LIMIT_REACHED, self._limits, all_waiting=last)

    def _record(
        self, kind: AuditKind, counter: RefusalCounter[Counted], *, all_waiting: bool
    ) -> None:
        due = counter.take(all_waiting=all_waiting)
        for position, (refusal, count) in enumerate(due):
            try:
                self._events.record(audit_event(kind, **refusal._asdict(), count=count))
            except BaseException:
                for unrecorded in due[position:]:
                    counter.put_back(*unrecorded)
                raise

    def run(self) -> None:
        """Check every second until `stop` is called."""
        while not self._stopping.wait(TICK_SECONDS):
            self._try_check(last=False)

    def stop(self) -> None:
        """Stop the thread, and record all waiting events."""
        self._stopping.set()
        if self.is_alive():
            self.join(_STOP_SECONDS)
            self._try_check(last=True)

    def _try_check(self, *, last: bool) -> None:
        try:
            self.check(last=last)
        except Exception as error:  # noqa: BLE001 - the thread must survive any defect
            report(_log, "refused access and changes of tokens are not in the audit log yet", error)

    def _note_token_changes(self) -> None:
        if self._tokens is None:
            return
        now = _by_name(self._tokens())
        if now == self._known:
            return
        for event in _changes(self._known, now):
            if len(self._waiting) >= _MAX_TOKEN_EVENTS:
                metrics.counter("iot_audit_unrecorded_total").inc()
                continue
            self._waiting.append(event)
        self._known = now


def _by_name(tokens: Tokens) -> dict[str, Grant]:
    return {grant.name: grant for grant in tokens.grants}


def _reason(error: IotError) -> str:
    if isinstance(error, ForbiddenError):
        return "scope"
    presented = isinstance(error, UnauthorizedError) and error.presented
    return "unknown_token" if presented else "no_token"


def _changes(before: dict[str, Grant], now: dict[str, Grant]) -> Iterator[AuditEvent]:
    """Yield an event for each token that was added, removed or changed.

    An event has the token's name and scopes, and the name of this host.
    """
    host = socket.gethostname()
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        kind = AuditKind.TOKEN_CHANGED
        if old is None:
            kind = AuditKind.TOKEN_ADDED
        elif new is None:
            kind = AuditKind.TOKEN_REMOVED
        grant = new or old
        scopes = ", ".join(sorted(grant.scopes)) if grant else None
        yield audit_event(kind, name=name, scopes=scopes, seen_by=host)
