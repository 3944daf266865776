"""Signals that shut down a command. Writers use `iot_writer.shutdown` instead."""

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Self

_SHUTDOWN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class ShutdownRequested(KeyboardInterrupt):
    """A signal requested the shutdown of this command, which should exit with the status `code`.

    It extends `KeyboardInterrupt`, at which psycopg cancels a running statement.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class ShutdownSignals:
    """A context that turns SIGINT, SIGTERM and SIGHUP into a request for shutdown.

    For the main thread only. It also works in process 1 of a container, which receives these
    signals only if they have handlers.
    """

    def __init__(self, *, interrupt: bool = False) -> None:
        """With `interrupt`, every signal raises `ShutdownRequested` immediately.

        Without it, the command polls `requested`, or calls `check`.
        """
        self._interrupt = interrupt
        self._number: int | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has arrived."""
        return self._number is not None

    @property
    def name(self) -> str:
        """Name of the last signal; empty if none has arrived."""
        return "" if self._number is None else signal.Signals(self._number).name

    def check(self) -> None:
        """Raise `ShutdownRequested` if a signal has arrived."""
        if self._number is not None:
            raise ShutdownRequested(self._number)

    def pause(self, seconds: float) -> None:
        """Sleep. Return early when a signal arrives or a child process ends."""
        readable, _, _ = select.select([self._wakeup_read], [], [], seconds)
        if readable:
            os.read(self._wakeup_read, 4096)

    def __enter__(self) -> Self:
        # A pipe, because a signal between a check of `requested` and a sleep would be missed.
        self._wakeup_read, self._wakeup_write = os.pipe()  # macOS has no pipe2
        for end in (self._wakeup_read, self._wakeup_write):
            os.set_blocking(end, False)
        self._previous_fd = signal.set_wakeup_fd(self._wakeup_write, warn_on_full_buffer=False)
        for number in (*_SHUTDOWN, signal.SIGCHLD):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # returned by signal()
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._wakeup_read)
        os.close(self._wakeup_write)

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- signal's API
        if number == signal.SIGCHLD:
            return
        self._number = number
        if self._interrupt:
            raise ShutdownRequested(number)
