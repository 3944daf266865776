"""Time of `make run` until the first reading is read back."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import TextIO

from bench.limits import wait_until
from bench.peers.side import ROOT
from bench.results import Kind, Row
from bench.spread import spread
from bench.stage import Stage
from iot_tools.local.ports import free_port

START_SECONDS = 60
INSTALL_SECONDS = 180
END_SECONDS = 30
_FIRST_READING = re.compile(r"first reading read back ([\d.]+) s after start")


def measure_starts(stage: Stage) -> None:
    """Measure with an existing virtual environment and, in a full run, without one."""
    ready = spread([_with_environment() for _ in range(stage.scale.starts)])
    results = stage.results
    section = "to the first reading read back"
    results.detail(section, "environment there, no data yet", ready, "s")
    value, figure = ready, "start to the first reading read back, the environment there"
    if stage.scale.fresh_install:
        value = spread([_from_nothing()])
        figure = "`make run` from nothing to the first reading read back"
        results.detail(section, "environment made first; downloads may be cached here", value, "s")
    else:
        results.notes.append(
            "`make run` was timed with its environment in place, not from nothing."
        )
    row = Row(figure, "s", value)
    results.rows.append(row.below(Kind.FLOOR, 90, "s").below(Kind.AIM, 20, "s"))


def _with_environment() -> float:
    with TemporaryDirectory(prefix="iot-bench-run-") as folder:
        command = [sys.executable, "-m", "iot_tools", "run", "--started", f"{time.time()}"]
        command += ["--port", f"{free_port()}", "--data-dir", f"{folder}/data"]
        return _seconds([*command, "--devices", "1", "--tls", "0"], START_SECONDS)


def _from_nothing() -> float:
    with TemporaryDirectory(prefix="iot-bench-run-") as folder:
        # For root, `make run` starts PostgreSQL as another user, who must reach its programs here.
        Path(folder).chmod(0o755)
        command = ["make", "--no-print-directory", "run", f"VENV={folder}/venv"]
        return _seconds(
            [*command, f"DATA_DIR={folder}/data", f"PORT={free_port()}"], INSTALL_SECONDS
        )


def _seconds(command: Sequence[str], patience: float) -> float:
    """Run `make run` until its first reading is read back. Return the seconds that it prints.

    Stop `make run` and its children at the first reading, or after `patience` seconds.
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith("IOT_")}
    with TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(  # noqa: S603 - commands of our own
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            wait_until(
                lambda: process.poll() is not None or _printed_seconds(output) is not None,
                patience,
                "the first reading read back",
                interval=0.1,
            )
        finally:
            _end(process)
        seconds = _printed_seconds(output)
        if seconds is None:
            output.seek(0)
            raise RuntimeError(f"the command ended. Its output:\n{output.read()[-500:]}")
        return seconds


def _printed_seconds(output: TextIO) -> float | None:
    output.seek(0)
    found = _FIRST_READING.search(output.read())
    return float(found[1]) if found else None


def _end(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):  # ended by itself
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
