"""Appending to the backlog: once `BacklogAppender.append` returns, entries are acknowledged.

`backlog_append.lua` adds the entries of a request and queues their drains in one step.
`GroupCommit` runs the script for concurrent requests in one round trip: the first caller sends its
call at once. Calls that arrive while its round trip lasts are queued; afterwards one of the queued
callers sends all of them together. An idle service adds no delay, and under load many requests
share a round trip, its system calls and Redis's write to the AOF.

There is no background thread: a caller is the sender while it waits for its own answer. So a
process that is killed loses nothing but its own callers, and nothing has to be shut down.
"""

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import (
    ConnectionError,  # noqa: A004 - redis-py's own
    NoScriptError,
    ResponseError,
)

from iot_models.errors import TooLargeError, UnavailableError
from iot_models.names import KeyNames, drain_job

from .append_outcomes import AppendOutcome, refuse
from .redis_connections import renew_connections
from .scripts import Call, load_and_repeat, load_script
from .store_states import report

WAIT_MILLISECONDS = 2000
"""Timeout of WAIT and WAITAOF. With `appendfsync everysec`, an fsync comes every second."""
MAX_BYTES = 2**20
"""Approximate size of a group's arguments; it bounds the delay by the bytes of other callers."""
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
        # Formatted once, and not for each append.
        self._append_keys = (names.backlog_counters, names.job_list)
        self._stream_and_job = cache(lambda shard: (names.stream(shard), drain_job(shard)))
        # WAIT and WAITAOF cover the writes of their connection alone, so they follow the
        # appends in the same pipeline.
        self._append = GroupCommit(
            client, load_script(client, "backlog_append.lua"), trailing_command=wait_command
        )

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
        keys = list(self._append_keys)
        arguments: list[str | int | bytes] = [self._max_bytes, len(guards)]
        if request is None:
            arguments.append("")
        else:
            name, *other_names = request.names
            arguments += (
                name, request.seconds, request.answer,
                self._names.remembered_counts, request.max_requests,
                request.counter, request.max_requests_of_client, len(other_names), *other_names,
            )  # fmt: skip
        for guard in guards:
            arguments += guard
        for shard, sealed in entries:
            stream, job = self._stream_and_job(shard)
            keys.append(stream)
            arguments += (shard, job, sealed)
        (outcome, *more), wait_answer = self._append.run(keys, arguments, size)
        # A repeated request waits too: its first attempt may have failed because replicas were
        # missing, and the repeat must not be answered 201 before they have the entries.
        if self._waits and outcome in {AppendOutcome.ADDED, AppendOutcome.REMEMBERED}:
            self._check_wait_answer(wait_answer)
        if outcome == AppendOutcome.REMEMBERED:
            return AppendResult(first_answer=more[0])
        if outcome == AppendOutcome.DAMAGED:
            sentence = "the counters of the backlog in Redis are damaged; a writer repairs them"
            raise UnavailableError(f"{_logged(sentence)}; nothing was stored, try again")
        if outcome != AppendOutcome.ADDED:
            refuse(outcome, *more)
        held, renewals, *totals = more
        ends = {shard: end for (shard, _), end in zip(entries, totals, strict=True)}
        return AppendResult(ends=ends, held=held, session_renewals=renewals)

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


class _PendingCall:
    __slots__ = ("answer", "arguments", "done", "error", "size", "wakeup")

    def __init__(self, arguments: Call, size: int) -> None:
        self.arguments = arguments
        self.size = size
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None
        # A lock used as an event: a `threading.Event` adds a condition, and another lock a wait.
        # The caller waits until the lock is released: when the call is done, or is elected as the
        # next sender.
        self.wakeup = threading.Lock()
        self.wakeup.acquire()


class GroupCommit:
    """A runner of one Lua script for concurrent callers, in threads or greenlets."""

    def __init__(
        self, client: "Redis", script: Any, *, trailing_command: Sequence[Any] = ()
    ) -> None:
        """`trailing_command` is sent once after each group. All callers get its answer."""
        self._client = client
        self._script = script
        self._trailing_command = trailing_command
        self._guard = threading.Lock()
        """Protects `_queue` and `_sender`. Never held during I/O."""
        self._queue: list[_PendingCall] = []
        self._sender: _PendingCall | None = None
        """The call whose caller sends now or will send next; None if no call is pending.

        New callers wait while this is set, so it must never name a caller that is gone.
        """

    def run(self, keys: Sequence[Any], args: Sequence[Any], size: int) -> tuple[Any, Any]:
        """Return the script's answer and that of the trailing command (None without one).

        `size` is the approximate number of bytes of the arguments. The call must be idempotent:
        the client's retry may send it again after a connection broke.

        Raises:
            RedisError: the script failed; or Redis is away, and whether the script ran is unknown.
        """
        call = _PendingCall((keys, args), size)
        with self._guard:
            self._queue.append(call)
            must_wait = self._sender is not None
            if not must_wait:
                self._sender = call
        if must_wait:
            self._wait(call)
        # Woken up, but not done: this call was elected as the sender.
        if not call.done:
            self._send_group()
        if call.error is not None:
            try:
                raise call.error
            finally:
                # Breaks the cycle error -> traceback -> frame -> call -> error, which would keep
                # the request's arguments in memory until the next garbage collection.
                del call
        return cast("tuple[Any, Any]", call.answer)

    def _wait(self, call: _PendingCall) -> None:
        try:
            call.wakeup.acquire()
        except BaseException:
            # A waiting greenlet may be killed by a timeout. Its call must leave the queue unless it
            # is sent already. If it was elected in the meantime, another caller must send, or all
            # later callers would wait forever.
            with self._guard:
                if call in self._queue:
                    self._queue.remove(call)
                if self._sender is call:
                    self._elect_sender()
            raise

    def _send_group(self) -> None:
        group = self._next_group()
        try:
            self._send(group)
        except BaseException as error:  # noqa: BLE001 - raised to all callers, also the sender
            # An exception that kills the sender (`GreenletExit`, a timeout) concerns it alone. The
            # other callers get a RedisError, as after a lost connection: their entries may or may
            # not be in the backlog.
            for_others = error if isinstance(error, Exception) else _sender_killed()
            for call in group:
                call.error = for_others
            group[0].error = error
        # Elect before the wake-ups: the next group is sent while this group's callers continue.
        with self._guard:
            self._elect_sender()
        for call in group:
            call.done = True  # before the release: the woken caller looks at `done`
            call.wakeup.release()

    def _next_group(self) -> list[_PendingCall]:
        """Take the oldest calls from the queue, up to `MAX_BYTES` but at least one.

        The first of them is the sender's own: `_elect_sender` elects the oldest call.
        """
        with self._guard:
            total = count = 0
            for call in self._queue:
                total += call.size
                if count and total > MAX_BYTES:
                    break
                count += 1
            group, self._queue = self._queue[:count], self._queue[count:]
        return group

    def _elect_sender(self) -> None:
        """Let the caller of the oldest call send next. Needs `_guard`."""
        self._sender = self._queue[0] if self._queue else None
        if self._sender is not None:
            self._sender.wakeup.release()

    def _send(self, group: list[_PendingCall]) -> None:
        calls = [call.arguments for call in group]
        trailing_command, trailing_answer = self._trailing_command, None
        pipeline: Any
        with self._client.pipeline(transaction=False) as pipeline:
            for keys, arguments in calls:
                pipeline.execute_command("EVALSHA", self._script.sha, len(keys), *keys, *arguments)
            if trailing_command:
                pipeline.execute_command(*trailing_command)
            answers = pipeline.execute(raise_on_error=False)
        if trailing_command:
            trailing_answer = answers.pop()
        if NoScriptError in map(type, answers):  # Redis has restarted
            trailing_answer = load_and_repeat(
                self._client, self._script, calls, answers, trailing_command
            )
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                call.error = answer
            else:
                call.answer = (answer, trailing_answer)


def _sender_killed() -> Exception:
    return ConnectionError("the request that sent this group of entries was killed")
