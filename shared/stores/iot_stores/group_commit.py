"""Group commit: one round trip to Redis for the calls of many concurrent requests.

The first caller sends its call at once. Calls that arrive while its round trip lasts are queued;
afterwards one of the queued callers sends all of them together. An idle service adds no delay, and
under load many requests share a round trip, its system calls and Redis's write to the AOF.

There is no background thread: a caller is the sender while it waits for its own answer. So a
process that is killed loses nothing but its own callers, and nothing has to be shut down.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own

from .scripts import Call, try_all

MAX_BYTES = 2**20
"""Approximate size of a group's arguments; it bounds the delay by the bytes of other callers."""


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
        answers, trailing_answer = try_all(
            self._client, self._script, calls, trailing_command=self._trailing_command
        )
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                call.error = answer
            else:
                call.answer = (answer, trailing_answer)


def _sender_killed() -> Exception:
    return ConnectionError("the request that sent this group of entries was killed")
