"""`iot-sensor canary`: counts what is lost or doubled behind its back, each once."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iot_tools.local.ports import free_port
from support.stack import Stack
from support.waiting import wait_until
from system.tools.conftest import MakeStack, Start

PASSWORD = "canary's own"


@dataclass
class Bird:
    """A canary that runs."""

    process: "subprocess.Popen[str]"
    stack: Stack
    port: int

    def metric(self, name: str) -> float:
        """A counter's value; fails while /metrics is not there yet."""
        text = self.stack.request("GET", "/metrics", port=self.port).body.decode()
        samples = [
            each for family in text_string_to_metric_families(text) for each in family.samples
        ]
        (value,) = [each.value for each in samples if each.name == f"iot_canary_{name}"]
        return value

    def reach(self, name: str, value: float) -> None:
        """Wait until a counter is that high."""
        wait_until(lambda: self._known(name) >= value, seconds=30, what=f"{name} {value}")

    def checks_on(self) -> None:
        """Wait until it has looked again a few times."""
        self.reach("sent_total", self.metric("sent_total") + 4)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """What it said until it ended in good order, at once."""
        self.process.send_signal(number)
        began = time.monotonic()
        out, err = self.process.communicate(timeout=20)
        assert (self.process.returncode, err) == (0, "")
        assert time.monotonic() - began < 5
        assert out.endswith(f"ends: {number.name}\n")
        return out

    def _known(self, name: str) -> float:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self.metric(name)
        except OSError:
            return -1


Fly = Callable[..., Bird]


@pytest.fixture
def fly(start: Start, tmp_path: Path) -> Fly:
    """Starts a canary in a hurry."""
    password = tmp_path / "canary-password"
    password.write_text(PASSWORD)

    def fly(stack: Stack, *options: str, every: str = "0.2", grace: str = "1") -> Bird:
        port = free_port()
        process = start(
            *(
                "canary",
                "--url",
                f"http://127.0.0.1:{stack.port}",
                "--password-file",
                str(password),
            ),
            *("--every", every, "--grace", grace, "--metrics-port", str(port), *options),
            IOT_METRICS_ADDRESS="127.0.0.1",
        )
        return Bird(process, stack, port)

    return fly


def numbers(stack: Stack) -> list[int]:
    """Those that are stored."""
    return sorted(json.loads(row["freeform"])["canary"] for row in stack.read(PASSWORD))


def segments(postgres: psycopg.Connection) -> list[tuple[int, int]]:
    """The first and the last number of each segment; only a busy machine puts two into one."""
    statement = "SELECT relative_min, relative_max FROM segments ORDER BY 1"
    return postgres.execute(statement).fetchall()


def lose(postgres: psycopg.Connection, segment: tuple[int, int]) -> list[int]:
    """Delete a segment behind everybody's back; the numbers in it."""
    statement = "DELETE FROM segments WHERE (relative_min, relative_max) = (%s, %s)"
    assert postgres.execute(statement, segment).rowcount == 1
    return list(range(segment[0], segment[1] + 1))


def test_a_service_that_keeps_everything(stack: Stack, fly: Fly) -> None:
    bird = fly(stack)
    bird.reach("sent_total", 8)
    for name in ("lost_total", "doubled_total", "failures_total"):
        assert bird.metric(name) == 0
    assert bird.metric("round_trip_seconds_count") >= 7
    assert bird.metric("round_trip_seconds_sum") < 7 * 8
    alive = stack.request("GET", "/healthz", port=bird.port)
    assert (alive.status, alive.body) == (200, b'{"status": "ok"}')
    assert stack.request("GET", "/else", port=bird.port).status == 404
    out = bird.end()
    assert "starts at reading 1, watches 0 earlier ones" in out
    stored = numbers(stack)
    assert stored == list(range(1, len(stored) + 1))


def test_a_lost_reading_is_counted_once(
    stack: Stack, fly: Fly, postgres: psycopg.Connection
) -> None:
    bird = fly(stack)
    wait_until(lambda: len(segments(postgres)) >= 3, what="three segments", seconds=30)
    gone = lose(postgres, segments(postgres)[1])
    bird.reach("lost_total", len(gone))
    bird.checks_on()
    assert bird.metric("lost_total") == len(gone)
    assert bird.metric("doubled_total") == 0
    assert f"lost readings: {', '.join(map(str, gone))}\n" in bird.end(signal.SIGINT)
    again = fly(stack)
    again.reach("sent_total", 8)
    assert again.metric("lost_total") == 0  # the one before it has counted it
    assert int(again.end().split("starts at reading ")[1].split(",")[0]) > gone[-1]


def test_a_doubled_reading_is_counted_once(stack: Stack, fly: Fly) -> None:
    bird = fly(stack)
    bird.reach("round_trip_seconds_count", 4)
    content = {"db_password": PASSWORD, "relative_time": 3, "freeform": {"canary": 3}}
    for _ in range(2):
        assert stack.put({"data": content}).status == 201
    bird.reach("doubled_total", 1)
    bird.checks_on()
    assert bird.metric("doubled_total") == 1
    assert bird.metric("lost_total") == 0
    assert "doubled readings: 3\n" in bird.end()


@pytest.mark.parametrize("which", ["within", "last"])
def test_a_reading_that_is_lost_while_it_is_down(
    which: str, stack: Stack, fly: Fly, postgres: psycopg.Connection
) -> None:
    bird = fly(stack)
    wait_until(lambda: len(segments(postgres)) >= 4, what="four segments", seconds=30)
    sent = bird.metric("sent_total")
    bird.end()
    wait_until(lambda: max(numbers(stack)) >= sent, what="the last one to be stored")
    gone = lose(postgres, segments(postgres)[-2 if which == "within" else -1])
    again = fly(stack)
    again.reach("lost_total", len(gone))
    again.checks_on()
    assert again.metric("lost_total") == len(gone)
    assert again.metric("doubled_total") == 0


def test_a_service_that_is_away_loses_nothing(make_stack: MakeStack, fly: Fly) -> None:
    stack = make_stack({})
    bird = fly(stack)
    bird.reach("sent_total", 3)
    assert stack.api is not None
    stack.api.kill()
    stack.api.wait()
    failures = bird.metric("failures_total")
    bird.reach("failures_total", failures + 3)
    assert stack.request("GET", "/healthz", port=bird.port).status == 200
    stack.start_api()
    bird.reach("sent_total", bird.metric("sent_total") + 8)
    assert (bird.metric("lost_total"), bird.metric("doubled_total")) == (0, 0)
    out = bird.end()
    assert "request failed: ConnectionRefusedError" in out
    assert "requests succeed again" in out
    stored = numbers(stack)
    assert stored == list(range(1, len(stored) + 1))


def test_a_writer_that_is_away_for_less_than_the_grace(make_stack: MakeStack, fly: Fly) -> None:
    stack = make_stack({}, writers=0)
    bird = fly(stack, grace="60")
    bird.reach("sent_total", 3)
    assert bird.metric("round_trip_seconds_count") == 0
    stack.start_writer()
    bird.reach("round_trip_seconds_count", 3)
    assert (bird.metric("lost_total"), bird.metric("doubled_total")) == (0, 0)
    bird.end()


def test_what_was_counted_as_lost_and_is_late(make_stack: MakeStack, fly: Fly) -> None:
    stack = make_stack({}, writers=0)
    bird = fly(stack, grace="0.5")
    bird.reach("lost_total", 1)
    stack.start_writer()
    bird.reach("round_trip_seconds_count", 2)
    bird.reach("late_total", bird.metric("lost_total"))
    assert "late readings, counted as lost before: 1" in bird.end()


def test_two_at_once_send_nothing_twice(stack: Stack, fly: Fly) -> None:
    birds = [fly(stack), fly(stack)]
    for bird in birds:
        bird.reach("sent_total", 8)
    for bird in birds:
        assert (bird.metric("lost_total"), bird.metric("doubled_total")) == (0, 0)
        bird.end()
    stored = numbers(stack)
    assert stored == list(range(1, len(stored) + 1))


def test_a_token_that_is_put_right(
    make_stack: MakeStack, token_files: dict[str, Path], fly: Fly, tmp_path: Path
) -> None:
    stack = make_stack({"IOT_TOKENS_FILE": str(token_files["tokens"])})
    mounted = tmp_path / "mounted"
    mounted.write_text("iot_wrong")
    bird = fly(stack, "--token-file", str(mounted))
    bird.reach("failures_total", 2)
    mounted.write_text(token_files["probe"].read_text())
    bird.reach("sent_total", 2)
    assert "request failed: 401" in bird.end()


def test_it_ends_at_once_while_the_service_does_not_answer(fly: Fly, stack: Stack) -> None:
    assert stack.api is not None
    bird = fly(stack)
    bird.reach("sent_total", 1)
    for process in stack.writers:
        process.kill()
    stack.api.kill(signal.SIGSTOP)
    try:
        time.sleep(0.5)
        bird.end()
    finally:
        stack.api.kill(signal.SIGCONT)


def test_a_port_that_is_taken(stack: Stack, start: Start) -> None:
    port = str(stack.port)
    process = start("canary", "--url", f"http://127.0.0.1:{port}", "--metrics-port", port)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == (f"--metrics-port: can't listen on 0.0.0.0 port {port}: Address already in use\n")


def test_no_port(stack: Stack, start: Start) -> None:
    url = f"http://127.0.0.1:{stack.port}"
    process = start("canary", "--url", url, "--metrics-port", "0")
    assert process.stdout is not None
    assert "starts at reading 1" in process.stdout.readline()
    process.terminate()
    assert process.wait(10) == 0
