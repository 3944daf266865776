"""One child process: started, watched, stopped, never left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import launch

_GROUP_PATIENCE = 1.0


class LaunchError(Exception):
    """A child didn't come up; the message is one sentence for people."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a child runs, and how it is asked to end.

    `death_signal` is what the kernel sends it if we die without stopping it (Linux).
    """

    name: str
    arguments: Sequence[str]
    log: Path
    environment: Mapping[str, str] | None = None
    directory: Path | None = None
    user: int = -1
    stop_signal: signal.Signals = signal.SIGTERM
    death_signal: signal.Signals | None = None
    stop_seconds: float = 10.0


class Child:
    """A process that runs `program`, in a session of its own: Ctrl-C reaches us, not it.

    Start it from a thread that lives as long as the child should: the kernel counts the end of
    the thread as the parent's death.
    """

    def __init__(
        self,
        program: Program,
        *,
        ready: Callable[[], bool] | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        """`ready` tells whether the process does its work; `inherit` are files it keeps open."""
        self.program = program
        self._ready = ready
        self._inherit = tuple(inherit)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return self.program.name

    def spawn(self) -> None:
        """Start the process without waiting; its output is appended to the log.

        Raises:
            LaunchError: there is no process; an earlier one is still what `pid` tells of.
        """
        try:
            self._process = self._launched()
        except OSError as error:
            raise LaunchError(f"{self.name} can't be started: {error}") from error

    def _launched(self) -> subprocess.Popen[bytes]:
        program = self.program
        death_signal = program.death_signal or program.stop_signal
        launcher = [sys.executable, "-I", "-S", launch.__file__]
        how = [str(os.getpid()), str(int(death_signal)), str(program.user)]
        with program.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603 -- our own programs
                [*launcher, *how, *program.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=program.environment,
                cwd=program.directory,
                pass_fds=self._inherit,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that runs, or ran last.

        Raises:
            LaunchError: it was never started.
        """
        if self._process is None:
            raise LaunchError(f"{self.program.name} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives; one that ended is reaped."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Whether it lives and does its work."""
        return self.running and (self._ready is None or self._ready())

    @property
    def ending(self) -> str:
        """How it ended, for people: "exit status 1" or "SIGKILL"."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "still running"
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

    def run(self, patience: float) -> None:
        """Run it to its end.

        Raises:
            LaunchError: it failed, or took longer than `patience` seconds and was killed.
        """
        self.spawn()
        wait_until(lambda: not self.running, patience)
        if self.running or self._process is None or self._process.returncode != 0:
            ending = self.ending
            self.stop()
            raise LaunchError(f"{self.program.name} failed ({ending}):\n{self.log_tail()}")

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send it a signal; wait for its end if that was SIGKILL."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal_number)
        if signal_number == signal.SIGKILL:
            self._process.wait()

    def stop(self) -> bool:
        """Ask it to end, wait, and kill what remains of its group.

        Returns whether it ended by itself within its time.
        """
        graceful = True
        if self._process is not None and self.running:
            self._process.send_signal(self.program.stop_signal)
            try:
                self._process.wait(self.program.stop_seconds)
            except subprocess.TimeoutExpired:
                graceful = False
                self._process.kill()
                self._process.wait()
        self.clear_group()
        return graceful

    def clear_group(self) -> None:
        """End what the process, already gone, left behind in its group (workers of a master)."""
        if self._process is None or self.running:
            return
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if not _signal_group(self._process.pid, signal_number):
                return
            wait_until(lambda: not _signal_group(self.pid, 0), _GROUP_PATIENCE)

    def log_tail(self, lines: int = 5) -> str:
        """The end of its log, to show why it didn't start."""
        try:
            text = self.program.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def _signal_group(group: int, signal_number: int) -> bool:
    """Signal a group; False if nobody is left in it."""
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: Callable[[], bool], patience: float, interval: float = 0.01) -> bool:
    """Wait for a condition, up to `patience` seconds; tells whether it came true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(interval)
    return True
