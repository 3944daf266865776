"""The wish to stop, from the keyboard or from another program."""

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Self

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):  # noqa: N818 -- a wish, not an error
    """We were asked to stop while still starting."""


class StopRequest:
    """Within `with`, catches SIGINT, SIGTERM and SIGHUP, however often they come.

    For the main thread. `pause` ends early when one arrives or when a child ends.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup_before = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*_STOPPING, signal.SIGCHLD):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() gave us
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._read)
        os.close(self._write)

    def pause(self, seconds: float) -> None:
        """Wait, but not once something has happened that is worth a look."""
        readable, _, _ = select.select([self._read], [], [], seconds)
        if readable:
            os.read(self._read, 4096)

    def check(self) -> None:
        """Raise StopRequested if we are to stop."""
        if self.requested:
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- signal's form
        if number != signal.SIGCHLD:
            self.requested = True
