"""A child process that can be started, watched and stopped with its whole process group."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import launch

_MIN_PAUSE, _MAX_PAUSE = 0.01, 0.1
_GROUP_SECONDS = 1.0
"""Seconds that the other processes of a process group have to end after SIGTERM."""


class LaunchError(Exception):
    """A child process can't be started, or failed. The message is for users."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """The program of a child process, and the signal that shuts it down.

    On Linux, the kernel sends the child `death_signal` (default: `stop_signal`) if the parent dies
    without stopping the child.
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
    """A process that runs `program`, in its own session: Ctrl-C reaches the parent only.

    On Linux, the kernel sends `death_signal` to the child when the thread that started the child
    ends, even if the parent process lives on. So start the child from a thread that lives longer.
    """

    def __init__(
        self,
        program: Program,
        *,
        ready: Callable[[], bool] | None = None,
        inherit: Sequence[int] = (),
    ) -> None:
        """`ready` returns whether the process can do its work, such as answer requests.

        The process inherits the file descriptors `inherit`.
        """
        self.program = program
        self._ready = ready
        self._inherit = tuple(inherit)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        """The name of the process in messages."""
        return self.program.name

    def spawn(self) -> None:
        """Start the process without waiting until it is ready. Its output goes to `program.log`.

        If the program does not exist, no error is raised, and the process soon ends with exit
        status 1.

        Raises:
            LaunchError: the operating system can't start a process, or the log can't be opened.
                `pid` and `running` then still describe the previous process, if there was one.
        """
        try:
            self._process = self._launched()
        except OSError as error:
            raise LaunchError(f"{self.name} can't be started: {error}") from error

    def start(self, seconds: float = 20.0) -> None:
        """Start the process and wait until it is ready. Raises like `spawn` and `wait_ready`."""
        self.spawn()
        self.wait_ready(seconds)

    def wait_ready(self, seconds: float) -> None:
        """Wait until the process is ready. Kill it if it is not ready in time.

        Raises:
            LaunchError: the process ended, or was not ready in time. The message shows the end of
                its log.
        """
        wait_until(lambda: not self.running or self.ready(), seconds)
        if not self.ready():
            ending = self.ending
            self.kill()
            raise LaunchError(f"{self.name} did not start ({ending}):\n{self.log_tail()}")

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
        """The pid of the process that runs, or ran last.

        Raises:
            LaunchError: the process was never started.
        """
        if self._process is None:
            raise LaunchError(f"{self.program.name} was not started: call start first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive. If it has ended, this call reaps it."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Return whether the process is alive and can do its work."""
        return self.running and (self._ready is None or self._ready())

    @property
    def ending(self) -> str:
        """How the process ended, for messages: "exit status 1", "SIGKILL" or "still running"."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "still running"
        return f"exit status {code}" if code >= 0 else signal.Signals(-code).name

    def run(self, seconds: float) -> None:
        """Start the program and wait until it has ended successfully.

        Raises:
            LaunchError: the program failed, or took longer than `seconds` and was stopped.
        """
        self.spawn()
        wait_until(lambda: not self.running, seconds)
        if self.running or self._process is None or self._process.returncode != 0:
            ending = self.ending
            self.stop()
            raise LaunchError(f"{self.program.name} failed ({ending}):\n{self.log_tail()}")

    def kill(self, signal_number: int = signal.SIGKILL) -> None:
        """Send a signal to the process, if it runs. After SIGKILL, wait until it has ended."""
        if self._process is None or not self.running:
            return
        self._process.send_signal(signal_number)
        if signal_number == signal.SIGKILL:
            self._process.wait()

    def terminate(self) -> None:
        """Request the shutdown of the process, without waiting."""
        self.kill(self.program.stop_signal)

    def poll(self) -> int | None:
        """Return the exit status, or -N if signal N killed the process.

        Return None while the process runs, or if it was never started.
        """
        return None if self._process is None else self._process.poll()

    def wait(self, seconds: float | None = None) -> int:
        """Wait until the process has ended. Return its exit status, or -N if signal N killed it.

        Raises:
            LaunchError: the process was never started.
            subprocess.TimeoutExpired: the process still runs after `seconds`.
        """
        if self._process is None:
            raise LaunchError(f"{self.name} was not started: call start first")
        return self._process.wait(seconds)

    def stop(self) -> bool:
        """Shut down the process, then end the other processes of its process group.

        Return False if the process did not end within `stop_seconds` and was killed.
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
        """End the processes that are left in the process group after its main process has ended.

        For example, a killed gunicorn leaves its workers. While the main process runs, do nothing.
        """
        if self._process is None or self.running:
            return
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            if not _signal_group(self._process.pid, signal_number):
                return
            wait_until(lambda: not _signal_group(self.pid, 0), _GROUP_SECONDS)

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the log, indented."""
        try:
            text = self.program.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
        return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])


def _signal_group(group: int, signal_number: int) -> bool:
    """Send a signal to a process group. Return False if no process is left in the group.

    With the signal number 0, only check whether a process is left.
    """
    try:
        os.killpg(group, signal_number)
    except ProcessLookupError:
        return False
    return True


def wait_until(
    condition: Callable[[], bool], seconds: float, interval: float | None = None
) -> bool:
    """Wait until a condition is true, for `seconds` at most. Return whether it became true.

    `interval` is the pause between two calls of `condition`, in seconds. By default, the pause
    grows with the time waited, to spare a service that is starting.
    """
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited >= seconds:
            return False
        pause = min(_MAX_PAUSE, max(_MIN_PAUSE, waited / 16))
        time.sleep(pause if interval is None else interval)
    return True
