"""The supervisor restarts dead parts and stops parts in order."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from iot_tools.cli.shutdown_signals import ShutdownRequested, ShutdownSignals
from iot_tools.local.child import Child, LaunchError, wait_until
from iot_tools.local.supervisor import Supervisor

MakeChild = Callable[..., Child]

SLEEP = "import time; time.sleep(600)"
# A child that records its name at SIGTERM, to show the order.
ORDERLY = """
import pathlib, signal, sys, time
def end(*_):
    with open("order", "a") as file: file.write({name!r} + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
pathlib.Path({name!r}).touch()
time.sleep(600)
"""


class Said(list[str]):
    """The lines for the terminal."""

    def __call__(self, text: str) -> None:
        self.append(text)


@pytest.fixture
def said() -> Said:
    return Said()


def died(child: Child) -> Callable[[], bool]:
    return lambda: not child.running


def test_start_returns_when_all_parts_are_ready(
    make_child: MakeChild, said: Said, tmp_path: Path
) -> None:
    code = ORDERLY.format(name="a")
    child = make_child(code, ready=(tmp_path / "a").exists)
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start([child])
        assert (tmp_path / "a").exists()
        supervisor.stop()


def test_a_part_that_exits_at_startup_is_an_error(make_child: MakeChild, said: Said) -> None:
    child = make_child("raise SystemExit('no such table')", name="api", ready=lambda: False)
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        with pytest.raises(LaunchError, match=r"(?s)api did not start.*no such table"):
            supervisor.start([child])


def test_a_part_that_is_never_ready_is_an_error(make_child: MakeChild, said: Said) -> None:
    child = make_child(SLEEP, name="api", ready=lambda: False)
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        with pytest.raises(LaunchError, match="api was not ready in time"):
            supervisor.start([child], seconds=0.1)
        supervisor.stop()
    assert not child.running


def test_a_start_can_be_interrupted(make_child: MakeChild, said: Said) -> None:
    child = make_child(SLEEP, ready=lambda: False)
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(ShutdownRequested):
            supervisor.start([child])
        supervisor.stop()
    assert not child.running


def test_a_dead_part_is_restarted_and_reported(make_child: MakeChild, said: Said) -> None:
    child = make_child(SLEEP, name="writer")
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start([child])
        first = child.pid
        child.kill()
        supervisor.tick(100.0)
        assert said == ["writer died (SIGKILL); starting it again in 0.5 s"]
        supervisor.tick(100.4)
        assert not child.running
        supervisor.tick(100.6)
        assert child.running
        supervisor.tick(100.7)
        assert child.pid != first
        assert said[1:] == [f"writer is back (process {child.pid})"]
        supervisor.stop()


def test_pauses_grow_to_a_limit_and_are_reset_by_a_stable_part(
    make_child: MakeChild, said: Said
) -> None:
    child = make_child(SLEEP, name="writer")
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start([child])
        now = 0.0
        for _ in range(9):
            child.kill()
            supervisor.tick(now)
            supervisor.tick(now + 31)
            now += 31
        pauses = [line.rsplit(" in ")[1] for line in said if "died" in line]
        assert pauses[:4] == ["0.5 s", "1 s", "2 s", "4 s"]
        assert pauses[-1] == "30 s"
        supervisor.tick(now)
        supervisor.tick(now + 61)
        child.kill()
        supervisor.tick(now + 62)
        assert said[-1].endswith("in 0.5 s")
        supervisor.stop()


def test_a_part_that_fails_again_is_restarted_again(make_child: MakeChild, said: Said) -> None:
    child = make_child("raise SystemExit(3)", name="writer")
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start([child])
        assert wait_until(died(child), 10)
        supervisor.tick(0.0)
        supervisor.tick(1.0)
        assert wait_until(died(child), 10)
        supervisor.tick(2.0)
        assert said[-1] == "writer died (exit status 3); starting it again in 1 s"
        supervisor.stop()


def test_parts_stop_in_reverse_order(make_child: MakeChild, said: Said, tmp_path: Path) -> None:
    names = ["postgres", "redis", "writer", "api", "simulator"]
    children = [
        make_child(ORDERLY.format(name=name), name=name, ready=(tmp_path / name).exists)
        for name in names
    ]
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start(children)
        supervisor.stop()
    assert (tmp_path / "order").read_text(encoding="utf-8").split() == names[::-1]
    assert not any(child.running for child in children)


def test_a_part_that_ignores_sigterm_is_killed_and_named(
    make_child: MakeChild, said: Said, tmp_path: Path
) -> None:
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "import pathlib, time; pathlib.Path('deaf').touch(); time.sleep(600)"
    child = make_child(code, name="api", stop_seconds=0.1, ready=(tmp_path / "deaf").exists)
    with ShutdownSignals() as signals:
        supervisor = Supervisor(said, signals)
        supervisor.start([child])
        supervisor.stop()
    assert said == ["api did not end in time and was killed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_stop_signal_is_handled_and_may_repeat(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with ShutdownSignals() as signals:
        assert not signals.requested
        signal.raise_signal(number)
        signal.raise_signal(number)
        signals.pause(10)
        assert signals.requested
    assert signal.getsignal(number) is before
