"""The fork server, which starts the API and the writers of most tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from iot_tools.local.launcher import APPLICATION, GUNICORN
from support import forking
from support.stack import running_stack

TESTS = Path(__file__).parents[1]
PREPARED = """
import sys
from support import forking
own = {*sys.modules}
forking.prepare(sys.argv[1])
print("modules:", *({*sys.modules} - own))
"""
STARTED = """
import importlib, runpy, sys
_, last, *sys.argv = sys.argv
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
finally:
    importlib.import_module(last)
    print("modules:", *sys.modules)
"""
COMMANDS = {
    # gunicorn loads the application, and exits before it imports its worker and starts some.
    "gunicorn": ("iot_api.server.gunicorn_worker", *GUNICORN[1:], "--check-config", APPLICATION),
    "iot_writer": ("iot_writer.writer", "iot_writer"),
}


def imported(environment: dict[str, str], *arguments: str) -> set[str]:
    """Return the modules that Python code has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", *arguments],
        env=environment | {"PYTHONPATH": str(TESTS)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("modules:")]
    return set(line.split()[1:])


@pytest.mark.parametrize("module", forking.MODULES)
def test_the_server_imports_what_the_process_imports(
    environment: dict[str, str], module: str
) -> None:
    # A writer exits when it can't serve its metrics. The API would exit too early.
    wrong = {"IOT_METRICS_ADDRESS": "192.0.2.1", "IOT_WRITER_METRICS_PORT": "1"}
    wrong["IOT_API_METRICS_PORT"] = "0"
    started = imported(environment | wrong, STARTED, *COMMANDS[module])
    assert imported(environment, PREPARED, module) - started == set()


def test_processes_are_like_new_ones(environment: dict[str, str], tmp_path: Path) -> None:
    """They have their own session, log and environment, and end as processes do."""
    with running_stack(environment, tmp_path) as stack:
        assert stack.api is not None
        (writer,) = stack.writers
        for process in (stack.api, writer):
            assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
            assert process.running
        assert list(tmp_path.glob("iot-api-metrics-*")) != []
        writer.kill(signal.SIGKILL)
        assert writer.wait(5) == writer.poll() == -signal.SIGKILL
        stack.shut_down()
        assert stack.api.poll() == 0
    assert "Shutting down: Master" in (tmp_path / "api.log").read_text(encoding="utf-8")
