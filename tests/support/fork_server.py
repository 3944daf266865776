"""Starts processes of the service by forking one that has imported the service already.

The imports take two thirds of the CPU time of a start: 0.4 s in the API and 0.3 s in a writer. A
fork server imports one of them once, as the real process does, and forks for each start. The forked
process has its own environment, session, log and arguments. It runs `python -m gunicorn ...` or
`python -m iot_writer` from the first line on.

`ForkingLauncher` forks a process only on Linux, and only if the environment of the process does not
change the imports. It starts all other processes without a fork server. Processes with a
`ShiftedClock` have fork servers of their own, into which its library is loaded.
"""

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import cast

from iot_models.errors import SettingsError
from iot_models.settings import load_key_names
from iot_tools.local.child import Child, LaunchError
from iot_tools.local.launcher import Launcher

from . import forking

_VARIABLES = ("IOT_", "PYTEST_", "TMPDIR", "LD_PRELOAD", "SHIFTED_CLOCK")
"""Beginnings of the names of environment variables that no module reads while it is imported."""
_RIGHT_CLOCK = {"SHIFTED_CLOCK": "/dev/zero"}
"""A clock that is 0 s ahead."""


class ForkServer:
    """A process that has imported a module, and forks processes that run it."""

    def __init__(self, module: str, library: str) -> None:
        self._lock = threading.Lock()
        preloaded = {"LD_PRELOAD": library, **_RIGHT_CLOCK} if library else {}
        self._process = subprocess.Popen(
            [sys.executable, forking.__file__, module],
            env={**os.environ, **preloaded},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C reaches pytest only
        )

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> int:
        """Start a process. Return its pid."""
        return self._answer(arguments=[*arguments], environment={**environment}, log=str(log))

    def status(self, pid: int) -> int:
        """Return the exit status of a process that has ended, -N if signal N killed it.

        Call this once for each process: it frees the pid.
        """
        return self._answer(ended=pid)

    def close(self) -> None:
        """End the server. The kernel sends SIGTERM to its processes."""
        self._process.communicate()

    def _answer(self, **question: object) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            raise LaunchError("the fork server has ended; its error is on standard error")
        return int(answer)


@cache
def _fork_server(module: str, library: str) -> ForkServer:
    """Return the fork server of a module with the library of a shifted clock, or with none."""
    server = ForkServer(module, library)
    atexit.register(server.close)
    return server


class _ForkedProcess:
    """A process whose parent is a fork server, with the methods of `Popen` that `Child` uses.

    As with `Popen`, no other process gets the pid before `poll` or `wait` has returned the status.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server
        self._lock = threading.Lock()
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        with self._lock:
            if self.returncode is None and self._ended(0):
                self.returncode = self._server.status(self.pid)
                os.close(self._pidfd)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._ended(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ended(self, seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if seconds is None else 1000 * seconds))


class _ForkedChild(Child):
    """A child that a fork server starts."""

    def _launched(self) -> "subprocess.Popen[bytes]":
        _, _, module, *arguments = self.program.arguments
        environment = self.program.environment or {}
        server = _fork_server(module, environment.get("LD_PRELOAD", ""))
        pid = server.fork(arguments, environment, self.program.log)
        return cast("subprocess.Popen[bytes]", _ForkedProcess(server, pid))


class ForkingLauncher(Launcher):
    """A launcher that forks the API and the writers from fork servers if possible."""

    def python(
        self,
        name: str,
        arguments: Sequence[str],
        ready: Callable[[], bool] | None = None,
        variables: Mapping[str, str] = {},
        stop_seconds: float = 15,
    ) -> Child:
        """Return a process of this Python interpreter."""
        child = super().python(name, arguments, ready, variables, stop_seconds)
        if sys.platform != "linux" or self.inherit:
            return child
        environment = child.program.environment or {}
        if not _imports_the_same(environment):
            return child
        for module in forking.MODULES:  # both import at the same time
            _fork_server(module, environment.get("LD_PRELOAD", ""))
        return _ForkedChild(child.program, ready=ready)


def _imports_the_same(environment: Mapping[str, str]) -> bool:
    try:
        # RQ reads its prefix when it is imported.
        prefixes = {load_key_names(each).rq for each in (environment, {})}
    except SettingsError:
        return False
    return len(prefixes) == 1 and _others(environment) == _others(os.environ)


def _others(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environment.items() if not name.startswith(_VARIABLES)}
