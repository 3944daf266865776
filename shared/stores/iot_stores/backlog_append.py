"""Appending to the backlog: once `BacklogAppender.append` returns, entries are acknowledged.

`backlog_append.lua` adds the entries of a group of concurrent requests and queues their drains in
one step, with an outcome for each request. `GroupCommit` makes the groups: the first caller sends
its request at once. Requests that arrive while its round trip lasts are queued; afterwards one of
the queued callers sends all of them together. An idle service adds no delay, and under load many
requests share a round trip, its system calls and Redis's write to the AOF.

There is no background thread: a caller is the sender while it waits for its own answer. So a
process that is killed loses nothing but its own callers, and nothing has to be shut down.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own
    NoScriptError,
    ResponseError,
)

from iot_models import tracing
from iot_models.errors import TooLargeError, UnavailableError
from iot_models.names import DRAIN_JOB_PREFIX, KeyNames

from .append_outcomes import AppendOutcome, refuse
from .redis_connections import renew_connections
from .scripts import Call, evalsha, load_and_repeat, load_script, round_trip
from .store_states import report

WAIT_MILLISECONDS = 2000
"""Timeout of WAIT and WAITAOF. With `appendfsync everysec`, an fsync comes every second."""
MAX_BYTES = 2**20
"""Approximate size of a group; it bounds the delay by the bytes of other callers."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Result of `Backlog.append`: the entries were added, or their request is a repeat."""

    first_answer: bytes | None = None
    """The first answer to a repeated request; None if the entries were added."""
    ends: dict[int, int] = field(default_factory=dict)
    """By shard: the bytes ever added to the shard, up to the last of the entries."""
    held: int = 0
    """Number of held entries (`HeldEntries`)."""
    session_renewals: int = 0
    """How often writers have requested new sessions (`Backlog.request_new_sessions`)."""


@dataclass(frozen=True, slots=True)
class RememberedRequest:
    """A request with an Idempotency-Key, and the limits on how many of them are remembered."""

    names: tuple[str, ...]
    """The key in Redis that remembers the request, then those under which other versions may have
    remembered it."""
    seconds: int
    """How long the request is remembered."""
    answer: bytes
    """The answer to the request and its repeats."""
    max_requests: int
    """Maximum number of remembered requests."""
    counter: str
    """The key in Redis that counts the remembered requests of the client."""
    max_requests_of_client: int
    """Maximum of that counter."""


class Guard(NamedTuple):
    """A counter in Redis, and the limit at which nothing is appended."""

    name: str
    limit: int


class _Request(NamedTuple):
    """A request in a group."""

    shards: tuple[int, ...]
    """The shard of each entry."""
    arguments: list[str | int | bytes]
    """What the script gets of the request."""


class _Answer(NamedTuple):
    """The script's answer to a request."""

    outcome: Any
    """An integer if the only entry was added: the bytes ever added to its shard. Else a list with
    an `AppendOutcome` and its numbers."""
    held: int
    session_renewals: int
    wait_answer: Any
    """The answer to WAIT or WAITAOF, which follows the group; None without one."""


class AppendScript:
    """The script, for groups of requests, followed by WAIT or WAITAOF."""

    def __init__(
        self, client: "Redis", names: KeyNames, max_bytes: int, wait_command: Sequence[Any]
    ) -> None:
        self._client = client
        self._keys = (names.backlog_counters, names.job_list)
        self._stream = cache(names.stream)
        self._script = load_script(client, "backlog_append.lua")
        self._max_bytes = max_bytes
        self._wait_command = wait_command

    def send(self, group: list[_Request]) -> list[_Answer | Exception]:
        """Run the script once for a group of requests, then WAIT once. Return answers or errors."""
        shards = dict.fromkeys([shard for request in group for shard in request.shards])
        keys = [*self._keys, *map(self._stream, shards)]
        arguments: list[str | int | bytes] = [self._max_bytes, DRAIN_JOB_PREFIX, *shards]
        for request in group:
            arguments += request.arguments
        call: Call = (keys, arguments)
        commands = [evalsha(self._script, call)]
        if self._wait_command:
            commands.append(self._wait_command)
        # WAIT and WAITAOF cover the writes of their connection alone, so they follow the script
        # over the same connection.
        answers = round_trip(self._client, commands)
        waited = answers.pop() if self._wait_command else None
        if isinstance(answers[0], NoScriptError):  # Redis has restarted
            waited = load_and_repeat(
                self._client, self._script, [call], answers, self._wait_command
            )
        if isinstance(answers[0], Exception):
            raise answers[0]
        held, renewals, *outcomes = answers[0]
        return [
            outcome if isinstance(outcome, Exception) else _Answer(outcome, held, renewals, waited)
            for outcome in outcomes
        ]


class BacklogAppender:
    """Appends entries to the streams of their shards, for concurrent requests."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        max_bytes: int,
        wait_replicas: int = 0,
        wait_fsync: bool = False,
    ) -> None:
        self._client = client
        self._names = names
        self._wait_replicas = wait_replicas
        self._wait_fsync = wait_fsync
        self._waits = bool(wait_replicas or wait_fsync)
        if wait_fsync:
            wait_command: tuple[Any, ...] = ("WAITAOF", 1, wait_replicas, WAIT_MILLISECONDS)
        elif wait_replicas:
            wait_command = ("WAIT", wait_replicas, WAIT_MILLISECONDS)
        else:
            wait_command = ()
        self._max_bytes = max_bytes
        self._script = AppendScript(client, names, max_bytes, wait_command)
        self._groups = GroupCommit(self._script.send)
        self._traceparent = tracing.traceparent if tracing.is_on() else None

    def append(
        self,
        entries: Sequence[tuple[int, bytes]],
        request: RememberedRequest | None = None,
        guards: Sequence[Guard] = (),
    ) -> AppendResult:
        """Add sealed entries, given as (shard, sealed), and queue the drains of their shards.

        The script adds all entries or none. Once `append` returns, the entries are acknowledged.
        A caller that got no answer may append the same bytes again: the writer stores an entry
        once, even if the stream has several copies. If `request` is remembered already, nothing is
        added, and its first answer is returned.

        Raises:
            TooLargeError: the entries are larger than an empty backlog may become.
            GuardedError: one of `guards` is at its limit; nothing was added.
            TooManyRequestsError: the client has too many remembered requests; nothing was added.
            UnavailableError: nothing was added, because the backlog is full, too many requests are
                remembered, or a counter is damaged (`BacklogCounters`). Or the entries were added,
                but fewer than `wait_replicas` replicas (with `wait_fsync`: fewer disks) confirmed
                them in time: a failover may lose them.
            RedisError: Redis is away; whether the entries were added is unknown.
        """
        size = sum([len(sealed) for _, sealed in entries])
        if size > self._max_bytes:
            raise TooLargeError("the request is larger than the backlog may be")
        arguments: list[str | int | bytes]
        if request is None and not guards:
            arguments = [len(entries)]
        else:
            arguments = [-1 - len(entries), *self._conditions(request, guards)]
        for entry in entries:
            arguments += entry
        if self._traceparent is not None and (traceparent := self._traceparent()):
            arguments.insert(0, traceparent)
        shards = tuple([shard for shard, _ in entries])
        answer = self._groups.run(_Request(shards, arguments), size)
        outcome = answer.outcome
        if type(outcome) is int:
            outcome = [AppendOutcome.ADDED, outcome]
        kind, *more = outcome
        # A repeated request waits too: its first attempt may have failed because replicas were
        # missing, and the repeat must not be answered 201 before they have the entries.
        if self._waits and kind in {AppendOutcome.ADDED, AppendOutcome.REMEMBERED}:
            self._check_wait_answer(answer.wait_answer)
        if kind == AppendOutcome.REMEMBERED:
            return AppendResult(first_answer=more[0])
        if kind == AppendOutcome.DAMAGED:
            sentence = "the counters of the backlog in Redis are damaged; a writer repairs them"
            raise UnavailableError(f"{_logged(sentence)}; nothing was stored, try again")
        if kind != AppendOutcome.ADDED:
            refuse(kind, *more)
        ends = dict(zip(shards, more, strict=True))
        return AppendResult(ends=ends, held=answer.held, session_renewals=answer.session_renewals)

    def _conditions(
        self, request: RememberedRequest | None, guards: Sequence[Guard]
    ) -> list[str | int | bytes]:
        arguments: list[str | int | bytes] = [len(guards)]
        for guard in guards:
            arguments += guard
        if request is None:
            return [*arguments, ""]
        name, *other_names = request.names
        return [
            *arguments,
            name, request.seconds, request.answer,
            self._names.remembered_counts, request.max_requests,
            request.counter, request.max_requests_of_client, len(other_names), *other_names,
        ]  # fmt: skip

    def try_append(self) -> None:
        """Send the commands of `append` without effect. Raises `RedisError` if it would fail."""
        self._client.xadd(self._names.unused_stream, {"e": b""}, nomkstream=True)

    def first_answer(self, request_names: Sequence[str]) -> bytes | None:
        """Return the first answer of a request that is remembered under one of these names.

        None if the request is not remembered, and always if `append` waits for replicas or disks:
        then only `append` may answer a repeated request.
        """
        if self._waits:
            return None
        answers = cast("list[bytes | None]", self._client.mget(request_names))
        return next((answer for answer in answers if answer is not None), None)

    def _check_wait_answer(self, answer: Any) -> None:
        if isinstance(answer, ResponseError) and "WAITAOF" in str(answer):
            raise UnavailableError(
                _logged(f"Redis refuses WAITAOF (IOT_REDIS_WAIT_FSYNC): {answer}")
            )
        if isinstance(answer, Exception):
            raise answer
        local, replicas = answer if self._wait_fsync else (1, answer)
        if replicas < self._wait_replicas:
            # This master may be cut off from its replicas, and one of them may be the master now.
            # New connections resolve the name in the URL again.
            renew_connections(self._client)
            sentence = f"{replicas} of {self._wait_replicas} replicas have the readings"
            raise UnavailableError(f"{_logged(sentence)}; try again")
        if not local:
            sentence = "Redis has not put the readings on its disk"
            raise UnavailableError(f"{_logged(sentence)}; try again")


def _logged(sentence: str) -> str:
    """Log why readings are not acknowledged. Return the reason for the error message.

    The log line appears at most every ten seconds (`store_states.report`).
    """
    report(_log, "requests are answered 503", UnavailableError(sentence))
    return sentence


class _PendingRequest:
    __slots__ = ("answer", "done", "request", "size", "wakeup")

    answer: _Answer | BaseException

    def __init__(self, request: _Request, size: int) -> None:
        self.request = request
        self.size = size
        self.done = False
        # A lock used as an event: a `threading.Event` adds a condition, and another lock a wait.
        # The caller waits until the lock is released: when the request is done, or is elected as
        # the next to send.
        self.wakeup = threading.Lock()
        self.wakeup.acquire()


class GroupCommit:
    """The groups of requests of concurrent callers, in threads or greenlets."""

    def __init__(self, send: Callable[[list[_Request]], Sequence[_Answer | Exception]]) -> None:
        """`send` sends a group of requests, and returns the answer or the error of each."""
        self._send = send
        self._guard = threading.Lock()
        """Protects `_queue` and `_sender`. Never held during I/O."""
        self._queue: list[_PendingRequest] = []
        self._sender: _PendingRequest | None = None
        """The request whose caller sends now or will send next; None if no request is pending.

        New callers wait while this is set, so it must never name a caller that is gone.
        """

    def run(self, request: _Request, size: int) -> _Answer:
        """Return the answer to a request of about `size` bytes.

        The request may be sent again after a connection broke: its entries must be idempotent.

        Raises:
            RedisError: Redis refused the request; or Redis is away, and it is unknown whether the
                script ran.
        """
        pending = _PendingRequest(request, size)
        with self._guard:
            self._queue.append(pending)
            must_wait = self._sender is not None
            if not must_wait:
                self._sender = pending
        if must_wait:
            self._wait(pending)
        # Woken up, but not done: this request was elected as the sender.
        if not pending.done:
            self._send_group()
        answer = pending.answer
        if isinstance(answer, BaseException):
            try:
                raise answer
            finally:
                # Breaks the cycle error -> traceback -> frame -> call -> error, which would keep
                # the request's arguments in memory until the next garbage collection.
                del pending, answer
        return answer

    def _wait(self, pending: _PendingRequest) -> None:
        try:
            pending.wakeup.acquire()
        except BaseException:
            # A waiting greenlet may be killed by a timeout. Its request must leave the queue unless
            # it is sent already. If it was elected in the meantime, another caller must send, or
            # all later callers would wait forever.
            with self._guard:
                if pending in self._queue:
                    self._queue.remove(pending)
                if self._sender is pending:
                    self._elect_sender()
            raise

    def _send_group(self) -> None:
        group = self._next_group()
        try:
            answers = self._send([pending.request for pending in group])
            for pending, answer in zip(group, answers, strict=True):
                pending.answer = answer
        except BaseException as error:  # noqa: BLE001 - raised to all callers, also the sender
            # An exception that kills the sender (`GreenletExit`, a timeout) concerns it alone. The
            # other callers get a RedisError, as after a lost connection: their entries may or may
            # not be in the backlog.
            for_others = error if isinstance(error, Exception) else _sender_killed()
            for pending in group:
                pending.answer = for_others
            group[0].answer = error
        # Elect before the wake-ups: the next group is sent while this group's callers continue.
        with self._guard:
            self._elect_sender()
        for pending in group:
            pending.done = True  # before the release: the woken caller looks at `done`
            pending.wakeup.release()

    def _next_group(self) -> list[_PendingRequest]:
        """Take the oldest requests from the queue, up to `MAX_BYTES` but at least one.

        The first of them is the sender's own: `_elect_sender` elects the oldest request.
        """
        with self._guard:
            total = count = 0
            for pending in self._queue:
                total += pending.size
                if count and total > MAX_BYTES:
                    break
                count += 1
            group, self._queue = self._queue[:count], self._queue[count:]
        return group

    def _elect_sender(self) -> None:
        """Let the caller of the oldest request send next. Needs `_guard`."""
        self._sender = self._queue[0] if self._queue else None
        if self._sender is not None:
            self._sender.wakeup.release()


def _sender_killed() -> Exception:
    return ConnectionError("the request that sent this group of entries was killed")
