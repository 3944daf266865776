"""Ending a command by SIGTERM as by Ctrl-C, also where it is process 1 of a container."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class EndedError(KeyboardInterrupt):
    """The process was asked to end; raised wherever it is. `code` is what a shell would tell.

    Of this kind, so that psycopg cancels the statement that is under way.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Meanwhile SIGTERM and SIGINT raise `EndedError`. The kernel would not end process 1."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, _end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _end(number: int, _: FrameType | None) -> NoReturn:
    raise EndedError(number)
