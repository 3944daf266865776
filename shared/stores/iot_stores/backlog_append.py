"""Appending to the backlog: once `BacklogAppender.append` returns, entries are acknowledged.

`backlog_append.lua` adds the entries of a group of concurrent requests and queues their drains in
one step, with an outcome for each request. `GroupCommit` makes the groups: the first caller sends
its request immediately. Requests that arrive during this round trip are queued. Afterwards, one of
the queued callers sends the queued requests together. So an idle service adds no delay, and under
load many requests share a round trip, its system calls and Redis's write to the AOF.

The caller that sends a group is the *sender*. There is no background thread to stop at shutdown.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, cast

from hiredis import pack_command
from redis import Redis
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own
    NoScriptError,
    ResponseError,
)

from iot_models import tracing
from iot_models.errors import TooLargeError, UnavailableError
from iot_models.names import DRAIN_JOB_PREFIX, KeyNames

from .append_conditions import Guard, RememberedRequest, conditions
from .append_outcomes import AppendOutcome, refuse
from .confirmation import NO_CONFIRMATION, Confirmation
from .scripts import Call, load_and_repeat, load_script
from .store_states import report
from .wakeups import ThreadWakeup, Wakeup

MAX_BYTES = 2**20
"""Maximum sealed bytes of a group of several requests: each caller waits for the whole group."""
CHECK_SECONDS = 1.0
"""After a pause this long, the connection to Redis is checked before it is used."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class AppendResult:
    """Result of `BacklogAppender.append`: the entries were added, or the request is a repeat."""

    first_answer: bytes | None = None
    """The first answer to a repeated request; None if the entries were added."""
    ends: dict[int, int] = field(default_factory=dict)
    """For each shard, the number of bytes ever added, up to and including the new entries."""
    held: int = 0
    """Number of held entries (`HeldEntries`)."""
    session_renewals: int = 0
    """How often writers have requested new sessions (`Backlog.request_new_sessions`)."""


class _PendingRequest:
    """A request in a group, or in the queue for the next group."""

    __slots__ = ("answer", "arguments", "elected", "shards", "size", "wakeup")

    wakeup: Wakeup

    def __init__(self, shards: Sequence[int], arguments: list[Any], size: int) -> None:
        self.shards = shards
        """The shard of each entry."""
        self.arguments = arguments
        """The request's part of the arguments of the script."""
        self.size = size
        self.elected = False
        """Whether the caller of this request must send the next group."""
        self.answer: _Answer | BaseException | None = None


class _GroupAnswer(NamedTuple):
    """The part of Redis's answer that is the same for all requests of a group."""

    held: int
    session_renewals: int
    wait_answer: Any
    """The answer to the WAIT or WAITAOF that follows the group; None without such a command."""
    was_resent: bool
    """Whether the connection broke, and the group was sent again. If so, an earlier copy of a
    refused request may be in the backlog."""


_Answer = tuple[Any, _GroupAnswer]
"""The outcome of a request (see `AppendOutcome`), and the answer that its whole group shares."""


class AppendScript:
    """Runs `backlog_append.lua` for groups of requests, and then WAIT or WAITAOF if configured.

    Only one caller may send at a time. The connection stays out of the pool between groups: taking
    it from the pool and checking it costs as much as a group.
    """

    def __init__(self, client: "Redis", names: KeyNames, max_bytes: int, wait_command: Any) -> None:
        self._client = client
        self._pool: Any = client.connection_pool
        self._connection: Any = None
        self._check_at = 0.0
        self._keys = (names.backlog_counters, names.job_list)
        self._stream = cache(names.stream)
        self._script = load_script(client, "backlog_append.lua")
        self._max_bytes = max_bytes
        self._wait_command = wait_command

    def send(self, group: list[_PendingRequest]) -> list[_Answer | Exception]:
        """Run the script once for a group of requests. Return the answer or error of each request.

        If an item of the result is an error, Redis refused a command for this request.

        Raises:
            RedisError: Redis refused the script, or is away. The script may have run.
        """
        shards = {shard: None for request in group for shard in request.shards}
        keys = [*self._keys, *map(self._stream, shards)]
        arguments: list[Any] = [self._max_bytes, DRAIN_JOB_PREFIX, *shards]
        for request in group:
            arguments += request.arguments
        command = pack_command(("EVALSHA", self._script.sha, len(keys), *keys, *arguments))
        # WAIT and WAITAOF cover only writes over their own connection, so they are sent over the
        # connection of the script.
        waits = self._wait_command
        failures: list[str] = []

        def on_failure(error: Exception) -> None:
            # Not the error itself: its traceback would keep the group in memory.
            failures.append(str(error))

        answers = self._round_trip(
            [command + pack_command(waits) if waits else command], on_failure
        )
        waited = answers.pop() if waits else None
        if isinstance(answers[0], NoScriptError):  # Redis has restarted
            call: Call = (keys, arguments)
            after = [waits] if waits else []
            again = load_and_repeat(
                self._client, self._script, [call], answers, after=after, on_failure=on_failure
            )
            waited = again[0] if waits else None
        if isinstance(answers[0], Exception):
            raise answers[0]
        held, renewals, *outcomes = answers[0]
        common = _GroupAnswer(held, renewals, waited, failures != [])
        return [
            outcome if isinstance(outcome, Exception) else (outcome, common) for outcome in outcomes
        ]

    def _round_trip(
        self, packed: list[bytes], on_failure: Callable[[Exception], object]
    ) -> list[Any]:
        """Send the packed commands of a group, and return their answers as Redis gives them.

        If the connection breaks, call `on_failure` and send the commands again, as redis-py's
        client would do. A copy of `scripts.round_trip`: the code of a PUT should be in few files.
        """
        connection = self._checked_connection()
        self._check_at = 0.0

        def exchange() -> list[Any]:
            connection.send_packed_command(packed)
            answers = [_answer(connection)]
            if self._wait_command:
                answers.append(_answer(connection))
            return answers

        def disconnect(error: Exception) -> None:
            on_failure(error)
            connection.disconnect()

        answers: list[Any] = connection.retry.call_with_retry(exchange, disconnect)
        self._check_at = time.monotonic() + CHECK_SECONDS
        return answers

    def _checked_connection(self) -> Any:
        """Return a connection to the current server: after a failover, a new one from the pool."""
        self.release_old_connection()
        if self._connection is None:
            self._connection = self._pool.get_connection()
        return self._connection

    def release_old_connection(self) -> None:
        """Give the connection back to the pool if it is old: unused for a while, or opened before a
        failover or a fork."""
        connection = self._connection
        if connection is not None and (
            time.monotonic() >= self._check_at
            or connection.should_reconnect()
            or connection.pid != os.getpid()
            or not self._pool.owns_connection(connection)
        ):
            self._connection = None
            self._pool.release(connection)


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class BacklogAppender:
    """Appends entries to the streams of their shards, for concurrent requests."""

    def __init__(
        self,
        client: "Redis",
        names: KeyNames,
        *,
        max_bytes: int,
        confirmation: Confirmation = NO_CONFIRMATION,
        wakeup: Callable[[], Wakeup] = ThreadWakeup,
    ) -> None:
        self._client = client
        self._names = names
        self._confirmation = confirmation
        self._waits = confirmation.command if confirmation.of_appends else ()
        self._max_bytes = max_bytes
        self._script = AppendScript(client, names, max_bytes, self._waits)
        self._groups = GroupCommit(self._script.send, wakeup)
        self._traces = tracing.is_on()

    def append(
        self,
        entries: Sequence[tuple[int, bytes]],
        request: RememberedRequest | None = None,
        guards: Sequence[Guard] = (),
        received: int | None = None,
    ) -> AppendResult:
        """Add sealed entries, given as (shard, sealed), and queue the drains of their shards.

        All entries are added or none. Once `append` returns, the entries are acknowledged. After an
        error, the caller may append the same bytes again: of several copies, the writer stores one.
        If Redis remembers the Idempotency-Key of `request`, nothing is added, and the answer to the
        first attempt is returned. `received`: the time of receipt (Unix milliseconds) of entries
        that were in the backlog before; None for new entries.

        Raises:
            TooLargeError: the entries exceed `max_bytes`, the limit of the whole backlog.
            GuardLimitError: one of `guards` is at its limit; nothing was added.
            TooManyRequestsError: the client has too many remembered requests; nothing was added.
            UnavailableError: nothing was added, because the backlog is full, too many requests are
                remembered, Redis has lost an earlier attempt (`RememberedRequest.earlier`), or a
                counter is damaged (`BacklogCounters`). Or the entries are in Redis, but too few
                replicas or disks confirmed them in time, so a failover may lose the entries.
                Or the connection broke, and Redis refused the entries when they were sent again:
                the first copy may have been added.
            RedisError: Redis refused a command, or is away. The entries may have been added.
        """
        arguments: list[Any]
        if request is None and not guards:
            arguments = [len(entries)]
        else:
            arguments = [-1 - len(entries), *conditions(guards, request, self._names)]
        size, shards = 0, []
        for shard, sealed in entries:
            arguments += shard, sealed
            shards.append(shard)
            size += len(sealed)
        if size > self._max_bytes:
            raise TooLargeError("the request is larger than the backlog may be")
        traceparent = tracing.traceparent() if self._traces else ""
        if received is not None or traceparent:
            arguments.insert(0, f"p{traceparent}" if received is None else f"r{received}")
        outcome, group = self._groups.run(_PendingRequest(shards, arguments, size))
        kind, *more = (AppendOutcome.ADDED, outcome) if type(outcome) is int else outcome
        # A repeated request waits, too: its first attempt may have failed because replicas were
        # missing. The repeat must not be answered 201 before replicas have the entries.
        if self._waits and kind in {AppendOutcome.ADDED, AppendOutcome.REMEMBERED}:
            self._check_wait_answer(group.wait_answer)
        if kind == AppendOutcome.REMEMBERED:
            return AppendResult(cast("bytes", more[0]))
        if group.was_resent and kind != AppendOutcome.ADDED:
            raise UnavailableError(
                "the connection to Redis broke; it is unknown whether the readings are stored, "
                "try again"
            )
        if kind == AppendOutcome.DAMAGED:
            sentence = "the counters of the backlog in Redis are damaged; a writer repairs them"
            raise UnavailableError(f"{_logged(sentence)}; nothing was stored, try again")
        if kind != AppendOutcome.ADDED:
            refuse(kind, *more)
        ends = dict(zip(shards, more, strict=True))
        return AppendResult(None, ends, group.held, group.session_renewals)

    def release_idle_connection(self) -> None:
        """Give the connection for appends back to the pool, if it is old and no append runs.

        After a failover, this connection leads to the old master. The pool closes such a connection
        when the connection is given back.
        """
        self._groups.run_if_idle(self._script.release_old_connection)

    def try_append(self) -> None:
        """Raise `RedisError` if Redis refuses XADD, which `append` needs. Nothing is added."""
        self._client.xadd(self._names.unused_stream, {"e": b""}, nomkstream=True)

    def first_answer(self, request_names: Sequence[str]) -> bytes | None:
        """Return the answer to the first attempt of a request; None if Redis remembers no answer.

        `request_names`: the Redis keys that may hold the answer (`RememberedRequest.names`).

        If `append` waits for replicas or disks, always return None: the replicas or disks may lack
        the entries of the first attempt. The caller must then call `append`, which waits until the
        replicas or disks have these entries, and returns the first answer.
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
        if missing := self._confirmation.missing(answer, self._client):
            raise UnavailableError(f"{_logged(missing)}; try again")


def _logged(sentence: str) -> str:
    """Log at most every ten seconds why readings are not acknowledged. Return `sentence`."""
    report(_log, "requests are answered 503", UnavailableError(sentence))
    return sentence


class GroupCommit:
    """Groups the requests of concurrent callers, which are threads or greenlets.

    There is no lock: each operation on `_queue` and `_idle` is atomic.
    """

    def __init__(
        self,
        send: Callable[[list[_PendingRequest]], Sequence[_Answer | Exception]],
        wakeup: Callable[[], Wakeup] = ThreadWakeup,
    ) -> None:
        """`send` sends a group of requests, and returns the answer or the error of each."""
        self._send = send
        self._wakeup = wakeup
        self._queue: deque[_PendingRequest] = deque()
        """The requests for the next groups, the oldest first."""
        self._idle = {True: True}
        """Has one item while no caller is the sender. The caller that pops the item becomes the
        sender. The sender must elect the next sender, because all later callers wait for this
        election."""

    def run(self, pending: _PendingRequest) -> _Answer:
        """Send a request, alone or in a group, and return its answer.

        If the connection breaks, the request is sent again, so adding its entries twice must be
        safe.

        Raises:
            RedisError: Redis refused the request, or is away. The script may have run.
        """
        if not self._idle.pop(True, False):
            self._wait(pending)
        # Not answered: this caller is the sender.
        if pending.answer is None:
            self._send_group(pending)
        answer = pending.answer
        if isinstance(answer, tuple):
            return answer
        try:
            raise cast("BaseException", answer)
        finally:
            # Breaks the cycle error -> traceback -> frame -> call -> error, which would keep
            # the request's arguments in memory until the next garbage collection.
            del pending, answer

    def run_if_idle(self, action: Callable[[], None]) -> None:
        """Run an action, unless a request is pending. Requests that arrive meanwhile wait."""
        if self._idle.pop(True, False):
            try:
                action()
            finally:
                self._elect_sender()

    def _wait(self, pending: _PendingRequest) -> None:
        """Wait until a request is answered, or its caller is elected to send the next group."""
        pending.wakeup = self._wakeup()
        self._queue.append(pending)
        if self._idle.pop(True, False):  # the last sender, a thread, did not see the request
            self._elect_sender()
        try:
            pending.wakeup.wait()
        except BaseException:
            # A timeout may kill a waiting greenlet. Its request must leave the queue, if it was not
            # sent. If the greenlet was elected meanwhile, another caller must send.
            with suppress(ValueError):
                self._queue.remove(pending)
            if pending.elected:
                self._elect_sender()
            raise

    def _send_group(self, own: _PendingRequest) -> None:
        group = [own]
        try:
            time.sleep(0)  # lets other greenlets join the group: groups become four times as large
            self._take_queued(group)
            answers = self._send(group)
            for pending, answer in zip(group, answers, strict=True):
                pending.answer = answer
        except BaseException as error:  # noqa: BLE001 - raised to all callers, also the sender
            # An exception that kills the sender (`GreenletExit`, a timeout) is raised only in the
            # sender. The other callers get a RedisError, as after a lost connection: their entries
            # may or may not be in the backlog.
            for_others = error if isinstance(error, Exception) else _sender_killed()
            for pending in group:
                pending.answer = for_others
            own.answer = error
        # Elect before the wake-ups: the next group is sent while this group's callers continue.
        self._elect_sender()
        for pending in group:
            if pending is not own:
                pending.wakeup.wake()

    def _take_queued(self, group: list[_PendingRequest]) -> None:
        """Move the oldest requests from the queue to a group, up to `MAX_BYTES`."""
        total, queue = group[0].size, self._queue
        while queue and (total := total + queue[0].size) <= MAX_BYTES:
            group.append(queue.popleft())

    def _elect_sender(self) -> None:
        """Let the caller of the oldest queued request send next. Only the sender may call this."""
        while not self._queue:
            self._idle[True] = True
            # Meanwhile a thread may have queued its request, because it still saw a sender.
            if not self._queue or not self._idle.pop(True, False):
                return
        elected = self._queue.popleft()
        elected.elected = True
        elected.wakeup.wake()


def _sender_killed() -> Exception:
    return ConnectionError("the request that sent the entries of several requests was killed")
