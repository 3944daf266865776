"""Keepers, which restart dead processes as Kubernetes does."""

import signal
import threading
import time
from contextlib import ExitStack, suppress
from typing import Protocol

from iot_tools.local.child import LaunchError
from support.processes import thaw

RESTART_SECONDS = 0.3
_LOOK_SECONDS = 0.02


class Part(Protocol):
    """A child process."""

    @property
    def pid(self) -> int: ...
    @property
    def running(self) -> bool: ...
    def spawn(self) -> None: ...
    def stop(self) -> bool: ...
    def kill(self, signal_number: int = signal.SIGKILL) -> None: ...
    def clear_group(self) -> None: ...
    def ready(self) -> bool: ...


class Keeper(threading.Thread):
    """A thread that starts and restarts a part. The kernel kills a child when this thread ends."""

    def __init__(self, name: str, part: Part) -> None:
        super().__init__(name=f"keeper-{name}", daemon=True)
        self.part = part
        self.spawned_at = 0.0
        self._name = name
        self._stopping = threading.Event()

    def run(self) -> None:
        """Restart the part until `stop`, then shut it down."""
        self._spawn()
        while not self._stopping.wait(_LOOK_SECONDS):
            if not self.part.running:
                self._stopping.wait(RESTART_SECONDS)
                self.part.clear_group()
                self._spawn()
        self.part.stop()

    def stop(self) -> None:
        """Shut down the part, which must not be frozen. `join` waits for the end."""
        self._stopping.set()

    def wait_ready(self, patience: float = 30.0) -> None:
        """Wait until the part is ready. Raise `LaunchError` after a timeout."""
        self._wait(lambda: self.is_alive() and self.spawned_at > 0 and self._works(), patience)

    def wait_respawned(self, pid: int, patience: float = 60.0) -> None:
        """Wait until the process `pid` of this part is gone and a new process has started."""
        self._wait(lambda: self.part.pid != pid, patience)

    def _works(self) -> bool:
        return self.part.running and self.part.ready()

    def _wait(self, condition: "Condition", patience: float) -> None:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() > deadline:
                raise LaunchError(f"{self._name} is not back after {patience:g} s")
            time.sleep(_LOOK_SECONDS)

    def _spawn(self) -> None:
        if self._stopping.is_set():
            return
        try:
            self.part.spawn()
            self.spawned_at = time.monotonic()
        except LaunchError as error:
            print(f"{self._name}: {error}")


class Condition(Protocol):
    """A condition that can be waited for."""

    def __call__(self) -> bool: ...


def keep(stack: ExitStack, name: str, part: Part) -> Keeper:
    """Start a part, and restart it until the stack is closed. The part is then killed."""
    keeper = Keeper(name, part)
    keeper.start()
    stack.callback(_end, keeper)
    return keeper


def _end(keeper: Keeper) -> None:
    if keeper.is_alive():
        with suppress(LaunchError):
            thaw(keeper.part.pid)
        keeper.stop()
        with suppress(LaunchError):
            keeper.part.kill()
        keeper.join(60)
