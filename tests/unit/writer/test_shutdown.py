"""The shutdown flag of a writer."""

import signal
import time
from collections.abc import Iterator

import pytest

from iot_writer.shutdown import ShutdownFlag
from support.waiting import stretched


@pytest.fixture
def flag() -> Iterator[ShutdownFlag]:
    """A flag that SIGALRM sets."""
    made = ShutdownFlag()
    previous = signal.signal(signal.SIGALRM, lambda *_: made.set())
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, previous)


def test_wait_ends_when_a_signal_arrives(flag: ShutdownFlag) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    begin = time.monotonic()
    assert flag.wait(30)
    assert time.monotonic() - begin < stretched(20)
    assert flag.is_set()
    assert flag.wait(0)


def test_wait_times_out_without_a_signal(flag: ShutdownFlag) -> None:
    assert not flag.wait(0.01)
    assert not flag.is_set()


@pytest.mark.timeout(20)
def test_signals_at_any_moment_of_a_wait_do_not_deadlock(flag: ShutdownFlag) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00005)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        flag._set = False  # noqa: SLF001 - the next wait waits again
        flag.wait(0.0001)
