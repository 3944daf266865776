"""`iot-sensor soak` passes only if the real processes store all readings."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.stack import Stack
from support.waiting import wait_until

END_SECONDS = 120


class Soaking:
    """The running command."""

    def __init__(self, stack: Stack, logs: Path, *options: str) -> None:
        self._out = logs / "soak.out"
        self.until = logs / "until"
        url = stack.url
        fixed = ["--url", url, "--until", str(self.until), "--seconds", "120"]
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "iot_tools", "soak", *fixed, *options],
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """Return the output lines of one kind."""
        text = self._out.read_text(encoding="utf-8")
        said = [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]
        return [each[kind] for each in said if kind in each]

    def go_on(self, count: int = 10, of: str = "least") -> None:
        """Wait until a figure of the progress has grown by `count`."""
        before = (self.lines("progress") or [{of: 0}])[-1][of]
        wait_until(
            lambda: (self.lines("progress") or [{of: 0}])[-1][of] >= before + count,
            what=f"{count} more: {of}",
        )

    def end(self) -> tuple[int, dict[str, Any]]:
        """Stop the command, and return its exit code and its report."""
        self.until.write_text("now", encoding="utf-8")
        code = self.process.wait(END_SECONDS)
        (report,) = self.lines("report")
        return code, report


@contextmanager
def soaking(stack: Stack, logs: Path, *options: str) -> Iterator[Soaking]:
    """Run the load, at most until the end of the block."""
    made = Soaking(stack, logs, *options)
    try:
        made.go_on()
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_a_correct_service_passes(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path, "--devices", "3") as load:
        code, report = load.end()
    assert (code, report["well"]) == (0, True), report
    assert report["devices"] == 3
    assert report["acknowledged"] >= 33
    for name in ("failed", "refused", "unsure", "not_stored", "lost", "doubled", "strange"):
        assert report[name] == 0, report
    assert report["failures"] == []


def test_failed_requests_of_a_killed_api_are_reported(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path) as load:
        shared_stack.kill_api()
        load.go_on(2, of="failed")
        shared_stack.start_api()
        load.go_on()
        code, report = load.end()
    assert code == 1
    assert report["failed"] > 0
    assert "/api/iot" in report["failures"][0]
    assert {report[name] for name in ("unsure", "not_stored", "lost", "doubled", "strange")} == {0}


def test_failed_requests_can_be_allowed(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path, "--allow-failures") as load:
        shared_stack.kill_api()
        load.go_on(2, of="failed")
        shared_stack.start_api()
        load.go_on()
        code, report = load.end()
    assert (code, report["well"]) == (0, True), report
    assert report["failed"] > 0


def test_a_killed_writer_fails_no_request(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path) as load:
        shared_stack.writers[-1].kill()
        shared_stack.writers[-1].wait()
        load.go_on()
        shared_stack.start_writer()
        code, report = load.end()
    assert (code, report["failed"]) == (0, 0), report


def test_a_missing_writer_is_a_failure(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path, "--verify", "2", "--devices", "1") as load:
        shared_stack.writers[-1].terminate()
        shared_stack.writers[-1].wait()
        load.go_on()
        code, report = load.end()
    assert code == 1
    assert report["not_stored"] == 1
    assert report["lost"] > 0


def test_readings_are_checked_after_sigterm(shared_stack: Stack, tmp_path: Path) -> None:
    with soaking(shared_stack, tmp_path) as load:
        load.process.terminate()
        assert load.process.wait(END_SECONDS) == 0
        (report,) = load.lines("report")
    assert report["well"], report
