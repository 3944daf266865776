"""The folder of the metrics files lasts as long as its API."""

import subprocess
import sys
from pathlib import Path

from support.stack import MakeStack

PROCESSES = 4
CREATE = """
from iot_api.server.metrics_folder import create_metrics_folder
folders = [create_metrics_folder() for _ in range(50)]
print("created", flush=True)
input()
print(all(folder.exists() for folder in folders))
"""


def test_the_folder_of_a_killed_api_is_removed(make_stack: MakeStack, tmp_path: Path) -> None:
    def folders() -> set[Path]:
        return set(tmp_path.glob("iot-api-metrics-*"))

    settings = {"IOT_API_WORKERS": "1"}
    running = make_stack(settings, writers=0)
    (kept,) = folders()
    restarted = make_stack(settings, writers=0)
    (left,) = folders() - {kept}
    restarted.kill_api()
    assert folders() == {kept, left}
    restarted.start_api()
    (created,) = folders() - {kept}
    assert created != left
    for stack in (running, restarted):
        stack.shut_down()
    assert folders() == set()


def test_apis_that_start_together_leave_each_other_their_folders(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CREATE],
            env={"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(PROCESSES)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "created\n"
    for process in processes:
        output, _ = process.communicate("\n")
        assert output == "True\n"
