"""Forks the workers of pytest-xdist from one process that has imported the tests.

Each worker collects all tests, and the imports take most of the CPU time. So one process imports
the modules (`worker_server.py`). pytest-xdist starts clients of this process (`worker_client.py`)
instead of interpreters.
"""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import execnet
import pytest

_FOLDER = Path(__file__).parent


def fork_workers(config: pytest.Config, specs: list[execnet.XSpec]) -> None:
    """Let the workers of `specs` be forked until the end of the run. Do nothing except on Linux."""
    if sys.platform != "linux":
        return
    folder = tempfile.TemporaryDirectory(prefix="iot-sensor-workers-")
    address = os.path.join(folder.name, "socket")  # noqa: PTH118 - for a command
    ignored = [f"--ignore={path}" for path in config.getoption("ignore") or []]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        server = subprocess.Popen(
            [sys.executable, str(_FOLDER / "worker_server.py"), *ignored, *config.args],
            stdin=listener.fileno(),
            stdout=subprocess.DEVNULL,
        )

    def close() -> None:
        server.terminate()
        server.wait()
        folder.cleanup()

    config.add_cleanup(close)
    client = [sys.executable, "-I", "-S", str(_FOLDER / "worker_client.py"), address]
    for spec in specs:
        spec.python = shlex.join(client)
