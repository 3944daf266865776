"""Group commit: what concurrent callers send to Redis goes in as few round trips as it can.

The first to come sends at once. Whoever comes while its answers are on their way waits for them,
and then all of those are sent together, by one of them. So nobody waits for company, and under
load a round trip, its system calls and Redis's write to the AOF are shared by many.
"""

import threading
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import ConnectionError  # noqa: A004 - redis-py's own

from .scripts import Call, try_all

MAX_BYTES = 2**20
"""Of arguments in a round trip, about: bounds how long one in it waits for the others' bytes."""


class _Call:
    __slots__ = ("answer", "arguments", "done", "error", "size", "turn")

    def __init__(self, arguments: Call, size: int) -> None:
        self.arguments = arguments
        self.size = size
        self.done = False
        self.answer: Any = None
        self.error: BaseException | None = None
        self.turn = threading.Lock()
        """Held until this call is done, or is the one to send."""
        self.turn.acquire()


class GroupCommit:
    """Runs one Lua script for concurrent callers, threads or greenlets."""

    def __init__(self, client: "Redis", script: Any, *, behind: Sequence[Any] = ()) -> None:
        """`behind`: a command that is sent once behind every group; its answer goes to all."""
        self._client = client
        self._script = script
        self._behind = behind
        self._guard = threading.Lock()
        self._waiting: list[_Call] = []
        self._sender: _Call | None = None

    def run(self, keys: Sequence[Any], args: Sequence[Any], size: int) -> tuple[Any, Any]:
        """The script's answer, and that of the command behind it (None when there is none).

        `size` is how many bytes the arguments are, about. The script and the arguments must bear
        to be sent again: a connection that breaks is tried anew, by the client's own rule.

        Raises:
            RedisError: the script's own error; or Redis is away, and it can't be told whether it
                has run.
        """
        call = _Call((keys, args), size)
        with self._guard:
            self._waiting.append(call)
            waits = self._sender is not None
            if not waits:
                self._sender = call
        if waits:
            self._wait(call)
        if not call.done:
            self._send_group()
        if call.error is not None:
            try:
                raise call.error
            finally:
                del call  # what the error's traceback holds must not hold the error
        return cast("tuple[Any, Any]", call.answer)

    def _wait(self, call: _Call) -> None:
        try:
            call.turn.acquire()
        except BaseException:  # whoever waits may be killed
            with self._guard:
                if call in self._waiting:
                    self._waiting.remove(call)
                if self._sender is call:
                    self._elect()
            raise

    def _send_group(self) -> None:
        group = self._next_group()
        try:
            self._send(group)
        except BaseException as error:  # noqa: BLE001 - raised to all who wait, us too
            told = error if isinstance(error, Exception) else _ended()
            for call in group:
                call.error = told
            group[0].error = error
        with self._guard:
            self._elect()  # first: it sends while those go that are answered
        for call in group:
            call.done = True
            call.turn.release()

    def _next_group(self) -> list[_Call]:
        """The caller's own call, which waits the longest, and those that fit beside it."""
        with self._guard:
            held = number = 0
            for call in self._waiting:
                held += call.size
                if number and held > MAX_BYTES:
                    break
                number += 1
            group, self._waiting = self._waiting[:number], self._waiting[number:]
        return group

    def _elect(self) -> None:
        """Whoever waits the longest sends next."""
        self._sender = self._waiting[0] if self._waiting else None
        if self._sender is not None:
            self._sender.turn.release()

    def _send(self, group: list[_Call]) -> None:
        calls = [call.arguments for call in group]
        answers, behind = try_all(self._client, self._script, calls, behind=self._behind)
        for call, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                call.error = answer
            else:
                call.answer = (answer, behind)


def _ended() -> Exception:
    """What those are told whose sender was killed, or ran out of its own time."""
    return ConnectionError("the one that sent this for all was ended")
