"""`iot-sensor canary` counts each lost and each doubled reading once."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from iot_tools.local.ports import free_port
from support.processes import freeze, thaw
from support.stack import MakeStack, Stack
from support.waiting import stretched, wait_until
from system.tools.conftest import Start


@dataclass
class RunningCanary:
    """A running canary."""

    process: "subprocess.Popen[str]"
    stack: Stack
    port: int

    def metric(self, name: str) -> float:
        """Return the value of a metric. Fail until /metrics is served."""
        text = self.stack.request("GET", "/metrics", port=self.port).body.decode()
        samples = [
            each for family in text_string_to_metric_families(text) for each in family.samples
        ]
        (value,) = [each.value for each in samples if each.name == f"iot_canary_{name}"]
        return value

    def reach(self, name: str, value: float) -> None:
        """Wait until a counter reaches a value."""
        wait_until(lambda: self._known(name) >= value, what=f"{name} {value}")

    def wait_for_checks(self) -> None:
        """Wait until the canary has checked its readings a few more times."""
        self.reach("sent_total", self.metric("sent_total") + 4)

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        """Send a signal, check that the canary shuts down quickly, and return its output."""
        self.process.send_signal(number)
        began = time.monotonic()
        out, err = self.process.communicate(timeout=20)
        assert (self.process.returncode, err) == (0, "")
        assert time.monotonic() - began < stretched(5)
        assert out.endswith(f"the canary stops: {number.name}\n")
        return out

    def _known(self, name: str) -> float:
        assert self.process.poll() is None, self.process.communicate()
        try:
            return self.metric(name)
        except OSError:
            return -1


StartCanary = Callable[..., RunningCanary]


@pytest.fixture
def start_canary(start: Start, password: str, tmp_path: Path) -> StartCanary:
    """A function that starts a canary with short intervals."""
    file = tmp_path / "canary-password"
    file.write_text(password)

    def start_canary(
        stack: Stack, *options: str, every: str = "0.2", grace: str = "1"
    ) -> RunningCanary:
        port = free_port()
        process = start(
            *(
                "canary",
                "--url",
                stack.url,
                "--password-file",
                str(file),
            ),
            *("--every", every, "--grace", grace, "--metrics-port", str(port), *options),
            IOT_METRICS_ADDRESS="127.0.0.1",
        )
        return RunningCanary(process, stack, port)

    return start_canary


def numbers(stack: Stack, password: str) -> list[int]:
    """Return the numbers of the stored readings."""
    return sorted(json.loads(row["freeform"])["canary"] for row in stack.read(password))


class Segments:
    """The segments of the test in the database: those of vaults that were created since then."""

    def __init__(self, postgres: psycopg.Connection) -> None:
        self._postgres = postgres
        found = postgres.execute("SELECT vault_id FROM vaults").fetchall()
        self._earlier = [vault for (vault,) in found]

    def bounds(self) -> list[tuple[int, int]]:
        """Return the first and the last number of each segment. Most segments have one number."""
        statement = (
            "SELECT relative_min, relative_max FROM segments WHERE vault_id <> ALL(%s) ORDER BY 1"
        )
        return self._postgres.execute(statement, [self._earlier]).fetchall()

    def lose(self, bounds: tuple[int, int]) -> list[int]:
        """Delete a segment, and return its numbers."""
        statement = (
            "DELETE FROM segments"
            " WHERE vault_id <> ALL(%s) AND (relative_min, relative_max) = (%s, %s)"
        )
        assert self._postgres.execute(statement, [self._earlier, *bounds]).rowcount == 1
        return list(range(bounds[0], bounds[1] + 1))


@pytest.fixture
def segments(module_environment: dict[str, str]) -> Iterator[Segments]:
    """The segments of the test."""
    url = module_environment["IOT_POSTGRES_URL"]
    with psycopg.connect(url, autocommit=True) as connection:
        yield Segments(connection)


def test_a_correct_service_has_no_losses(
    shared_stack: Stack, start_canary: StartCanary, password: str
) -> None:
    canary = start_canary(shared_stack)
    canary.reach("sent_total", 8)
    for name in ("lost_total", "doubled_total", "failures_total"):
        assert canary.metric(name) == 0
    assert canary.metric("round_trip_seconds_count") >= 7
    assert canary.metric("round_trip_seconds_sum") < 7 * 8
    alive = shared_stack.request("GET", "/healthz", port=canary.port)
    assert (alive.status, alive.body) == (200, b'{"status": "ok"}')
    assert shared_stack.request("GET", "/else", port=canary.port).status == 404
    out = canary.end()
    assert "starts at reading 1, watches 0 earlier readings" in out
    stored = numbers(shared_stack, password)
    assert stored == list(range(1, len(stored) + 1))


def test_a_lost_reading_is_counted_once(
    shared_stack: Stack, start_canary: StartCanary, segments: Segments
) -> None:
    canary = start_canary(shared_stack)
    wait_until(lambda: len(segments.bounds()) >= 3, what="three segments")
    gone = segments.lose(segments.bounds()[1])
    canary.reach("lost_total", len(gone))
    canary.wait_for_checks()
    assert canary.metric("lost_total") == len(gone)
    assert canary.metric("doubled_total") == 0
    counted = "1 reading: number" if len(gone) == 1 else f"{len(gone)} readings: numbers"
    assert f"lost {counted} {', '.join(map(str, gone))}\n" in canary.end(signal.SIGINT)
    again = start_canary(shared_stack)
    again.reach("sent_total", 8)
    assert again.metric("lost_total") == 0  # the first canary has counted the reading
    assert int(again.end().split("starts at reading ")[1].split(",")[0]) > gone[-1]


def test_a_doubled_reading_is_counted_once(
    shared_stack: Stack, start_canary: StartCanary, password: str
) -> None:
    canary = start_canary(shared_stack)
    canary.reach("round_trip_seconds_count", 4)
    content = {"db_password": password, "relative_time": 3, "freeform": {"canary": 3}}
    for _ in range(2):
        assert shared_stack.put({"data": content}).status == 201
    canary.reach("doubled_total", 1)
    canary.wait_for_checks()
    assert canary.metric("doubled_total") == 1
    assert canary.metric("lost_total") == 0
    assert "doubled 1 reading: number 3\n" in canary.end()


@pytest.mark.parametrize("which", ["within", "last"])
def test_a_reading_lost_while_no_canary_runs_is_counted(
    which: str, shared_stack: Stack, start_canary: StartCanary, segments: Segments, password: str
) -> None:
    canary = start_canary(shared_stack)
    wait_until(lambda: len(segments.bounds()) >= 4, what="four segments")
    sent = canary.metric("sent_total")
    canary.end()
    wait_until(lambda: max(numbers(shared_stack, password)) >= sent, what="the last reading")
    gone = segments.lose(segments.bounds()[-2 if which == "within" else -1])
    again = start_canary(shared_stack)
    again.reach("lost_total", len(gone))
    again.wait_for_checks()
    assert again.metric("lost_total") == len(gone)
    assert again.metric("doubled_total") == 0


def test_an_outage_of_the_api_is_no_loss(
    shared_stack: Stack, start_canary: StartCanary, password: str
) -> None:
    canary = start_canary(shared_stack)
    canary.reach("sent_total", 3)
    assert shared_stack.api is not None
    shared_stack.api.kill()
    shared_stack.api.wait()
    failures = canary.metric("failures_total")
    canary.reach("failures_total", failures + 3)
    assert shared_stack.request("GET", "/healthz", port=canary.port).status == 200
    shared_stack.start_api()
    canary.reach("sent_total", canary.metric("sent_total") + 8)
    assert (canary.metric("lost_total"), canary.metric("doubled_total")) == (0, 0)
    out = canary.end()
    assert "request failed: ConnectionRefusedError" in out
    assert "requests succeed again" in out
    stored = numbers(shared_stack, password)
    assert stored == list(range(1, len(stored) + 1))


def test_an_outage_within_the_grace_period_is_no_loss(
    shared_stack: Stack, start_canary: StartCanary
) -> None:
    shared_stack.writers[-1].stop()
    canary = start_canary(shared_stack, grace="60")
    canary.reach("sent_total", 3)
    assert canary.metric("round_trip_seconds_count") == 0
    shared_stack.start_writer()
    canary.reach("round_trip_seconds_count", 3)
    assert (canary.metric("lost_total"), canary.metric("doubled_total")) == (0, 0)
    canary.end()


def test_a_lost_reading_that_appears_is_counted_as_late(
    shared_stack: Stack, start_canary: StartCanary
) -> None:
    shared_stack.writers[-1].stop()
    canary = start_canary(shared_stack, grace="0.5")
    canary.reach("lost_total", 1)
    shared_stack.start_writer()
    canary.reach("round_trip_seconds_count", 2)
    canary.reach("late_total", canary.metric("lost_total"))
    assert re.search(r"found \d+ readings?: numbers? [\d, ]+ \(late; ", canary.end())


def test_two_canaries_send_different_numbers(
    shared_stack: Stack, start_canary: StartCanary, password: str
) -> None:
    canaries = [start_canary(shared_stack), start_canary(shared_stack)]
    for canary in canaries:
        canary.reach("sent_total", 8)
    for canary in canaries:
        assert (canary.metric("lost_total"), canary.metric("doubled_total")) == (0, 0)
        canary.end()
    stored = numbers(shared_stack, password)
    assert stored == list(range(1, len(stored) + 1))


def test_a_number_whose_answer_was_lost_counts_as_sent(
    shared_stack: Stack, start_canary: StartCanary, segments: Segments, password: str
) -> None:
    """The canary sends the number again with another time, which the service refuses."""
    data = {"db_password": password, "relative_time": 1, "freeform": {"canary": 1}}
    body = json.dumps({"data": data}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": "canary-1"}
    assert shared_stack.request("PUT", "/api/iot", body, headers).status == 201
    (stored,) = wait_until(segments.bounds, what="the reading")
    segments.lose(stored)
    canary = start_canary(shared_stack)
    canary.reach("sent_total", 3)
    assert canary.metric("failures_total") == 0


def test_a_corrected_token_file_is_read_again(
    make_stack: MakeStack, token_files: dict[str, Path], start_canary: StartCanary, tmp_path: Path
) -> None:
    stack = make_stack({"IOT_TOKENS_FILE": str(token_files["tokens"])}, writers=0)
    mounted = tmp_path / "mounted"
    mounted.write_text("iot_wrong")
    canary = start_canary(stack, "--token-file", str(mounted))
    canary.reach("failures_total", 2)
    mounted.write_text(token_files["probe"].read_text())
    canary.reach("sent_total", 2)
    assert "request failed: 401" in canary.end()


def test_sigterm_ends_the_canary_during_a_request(
    shared_stack: Stack, start_canary: StartCanary
) -> None:
    assert shared_stack.api is not None
    canary = start_canary(shared_stack)
    canary.reach("sent_total", 1)
    freeze(shared_stack.api.pid)
    try:
        time.sleep(0.5)
        canary.end()
    finally:
        thaw(shared_stack.api.pid)


def test_a_used_port_is_named(shared_stack: Stack, start: Start) -> None:
    port = str(shared_stack.port)
    process = start("canary", "--url", f"http://127.0.0.1:{port}", "--metrics-port", port)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == (f"--metrics-port: can't listen on 0.0.0.0 port {port}: Address already in use\n")


def test_the_canary_runs_without_metrics(shared_stack: Stack, start: Start) -> None:
    url = shared_stack.url
    process = start("canary", "--url", url, "--metrics-port", "0")
    assert process.stdout is not None
    assert "starts at reading 1" in process.stdout.readline()
    process.terminate()
    assert process.wait(10) == 0
