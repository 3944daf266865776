"""A simulated device loses no reading while the service fails."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from typing import Protocol

import pytest

from iot_sensor_client import Client, RetryPolicy
from iot_tools.devices.device import Device
from iot_tools.devices.sensors import Schedule, Sensor
from iot_tools.devices.simulation import Simulation, simulate
from iot_tools.local.ports import free_port
from support.clock import Clock
from support.waiting import wait_until

ONE_ATTEMPT = RetryPolicy(max_attempts=1)


class Service(Protocol):
    """The interface of the fixture `service`."""

    url: str
    readings: list[dict[str, object]]
    requests: int
    failures: list[tuple[int, dict[str, str]]]
    lose_answers: int
    authorizations: set[str | None]


class Bench:
    """A device and its clock."""

    def __init__(self, url: str, capacity: int = 1000) -> None:
        self.clock = Clock(1_763_877_000.0)
        self.client = Client(url, "demo", retry=ONE_ATTEMPT, timeout=5)
        sensor = Sensor(1, Schedule(rate=10), self.clock)
        self.device = Device("device 1", sensor, self.client, capacity=capacity, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        """Advance the clock and run one step of the device."""
        self.clock.now += seconds
        self.device.step()


def relative_times(service: Service) -> list[object]:
    return [reading["relative_time"] for reading in service.readings]


def expected(count: int) -> list[object]:
    return [100_000 * number for number in range(count)]


def test_a_device_sends_its_readings(service: Service) -> None:
    bench = Bench(service.url)
    bench.pass_time(0.5)
    bench.pass_time(0.5)
    bench.client.close()
    assert relative_times(service) == expected(10)
    assert {reading["db_password"] for reading in service.readings} == {"demo"}
    assert service.requests == 2


@pytest.mark.parametrize("status", [503, 429, 500, 502, 404, 401])
def test_readings_are_kept_and_sent_again_after_an_error(
    service: Service, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(service.url)
    service.failures = [(status, {}), (status, {})]
    for _ in range(10):
        bench.pass_time(0.5)
    bench.client.close()
    assert relative_times(service) == expected(50)
    assert bench.device.queue.waiting == 0
    assert f"requests fail, keeping 5 readings: {status}" in caplog.text
    assert "requests succeed again after" in caplog.text
    assert len(caplog.records) == 2


def test_a_device_waits_for_retry_after(service: Service) -> None:
    bench = Bench(service.url)
    service.failures = [(503, {"Retry-After": "7"})]
    bench.pass_time(1)
    for _ in range(6):
        bench.pass_time(1)
    assert service.requests == 1
    bench.pass_time(1)
    bench.client.close()
    assert relative_times(service) == expected(80)


def test_no_reading_is_lost_while_the_service_is_down(service: Service) -> None:
    bench = Bench(f"http://127.0.0.1:{free_port()}")
    bench.pass_time(5)
    assert bench.device.queue.waiting == 50
    recovered = Client(service.url, "demo")
    bench.device._client = recovered  # noqa: SLF001 -- the service is back at another port
    bench.pass_time(5)
    recovered.close()
    assert relative_times(service) == expected(100)


def test_a_lost_answer_stores_no_reading_twice(service: Service) -> None:
    bench = Bench(service.url)
    service.lose_answers = 1
    bench.pass_time(1)
    bench.pass_time(1)
    bench.client.close()
    assert relative_times(service) == expected(20)


def test_refused_readings_are_dropped_and_logged(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(service.url)
    service.failures = [(400, {})]
    bench.pass_time(1)
    bench.pass_time(1)
    bench.client.close()
    assert relative_times(service) == expected(20)[10:]
    assert "10 readings rejected: 400" in caplog.text


def test_a_full_outbox_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(f"http://127.0.0.1:{free_port()}", capacity=20)
    for _ in range(3):
        bench.pass_time(1)
    assert "10 readings dropped so far" in caplog.text


def test_readings_are_delivered_before_a_device_stops(service: Service) -> None:
    bench = Bench(service.url)
    bench.clock.now += 1
    stop = threading.Event()
    stop.set()
    bench.device.run(stop)
    assert relative_times(service) == expected(10)


def test_the_command_sends_the_given_number_from_each_device(service: Service) -> None:
    command = [sys.executable, "-m", "iot_tools", "simulate", "--url", service.url]
    command += ["--devices", "2", "--rate", "100", "--readings", "30", "--password", "p"]
    command += ["--token", "iot_token"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(service.readings) == 60
    assert service.authorizations == {"Bearer iot_token"}
    assert "readings: 60 acknowledged in " in done.stdout
    assert re.search(r"requests: \d+ acknowledged, 0 failed", done.stdout)
    assert re.search(r"latency: p50 [\d.]+ ms, p99 [\d.]+ ms, max [\d.]+ ms", done.stdout)


def test_the_command_ends_when_its_terminal_is_closed(service: Service) -> None:
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "iot_tools", "simulate", "--url", service.url],
        stdout=subprocess.DEVNULL,
        stderr=end,
    )
    try:
        os.close(end)
        wait_until(lambda: b"acknowledged" in os.read(terminal, 1000), what="the progress")
        os.close(terminal)
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_the_devices_stop_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stops = []

    def wait(_: Device, stop: threading.Event, *, every: float) -> None:
        stops.append(stop)
        stop.wait(20 * every)

    def fail(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(Device, "run", wait)
    simulation = Simulation(url="http://127.0.0.1:1", password="p", schedule=Schedule(rate=1))
    with pytest.raises(BrokenPipeError):
        simulate(simulation, fail)
    assert [stop.is_set() for stop in stops] == [True]
