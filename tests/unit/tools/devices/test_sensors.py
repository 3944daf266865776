"""Simulated readings have the fields and values of real readings."""

import itertools

import pytest

from iot_tools.devices.sensors import KINDS, Schedule, Sensor
from support.clock import Clock

START = 1_763_877_000.0


def test_readings_are_taken_at_the_rate() -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=10), clock)
    assert sensor.due() == []
    clock.now += 0.5
    assert len(sensor.due()) == 5
    assert sensor.due() == []
    clock.now += 60
    assert len(sensor.due()) == 600


def test_a_simulated_reading_has_all_fields() -> None:
    clock = Clock(START)
    sensor = Sensor(7, Schedule(rate=10), clock)
    clock.now += 1
    readings = sensor.due()
    fourth = readings[3]
    assert fourth["relative_time"] == 300_000
    assert fourth["interrogator_time"] == round(START * 1e6) + 300_000
    freeform = fourth["freeform"]
    assert set(freeform) == {
        "rssi", "epc96", "doppler", "phase", "antenna", "rospecid", "channelindex",
        "tagseencount", "accessspecid", "inventoryparameterspecid", "lastseentimestamp",
        "antennastate",
    }  # fmt: skip
    assert len(freeform["epc96"]) == 24
    assert freeform["lastseentimestamp"] == fourth["interrogator_time"]
    assert len({reading["freeform"]["epc96"] for reading in readings}) > 1


def test_signals_are_plausible_and_change_smoothly() -> None:
    clock = Clock(START)
    sensor = Sensor(3, Schedule(rate=40), clock)
    clock.now += 60
    by_tag: dict[str, list[int]] = {}
    for reading in sensor.due():
        freeform = reading["freeform"]
        by_tag.setdefault(freeform["epc96"], []).append(freeform["rssi"])
    for strengths in by_tag.values():
        assert -80 <= min(strengths) < max(strengths) <= -40
        assert all(abs(b - a) <= 3 for a, b in itertools.pairwise(strengths))


def test_a_sensor_ends_at_its_limit() -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=100), clock, limit=7)
    clock.now += 1
    assert len(sensor.due()) == 7
    assert sensor.finished
    assert sensor.due() == []


def test_a_clock_set_back_repeats_no_reading() -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=10), clock)
    clock.now += 2
    taken = sensor.due()
    clock.now -= 1
    assert sensor.due() == []
    clock.now += 1.15
    assert [r["relative_time"] for r in sensor.due()] == [2_000_000]
    assert len(taken) == 20


def test_jitter_delays_readings_and_keeps_their_order() -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=10, jitter=1), clock)
    clock.now += 60
    times = [reading["relative_time"] for reading in sensor.due()]
    assert times == sorted(times)
    assert len(times) == 600
    delays = [time - 100_000 * number for number, time in enumerate(times)]
    assert 0 <= min(delays) < 10_000
    assert 90_000 < max(delays) <= 100_000


def test_no_reading_is_taken_in_a_gap() -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=10, gap_every=4, gap_seconds=1), clock, limit=100)
    clock.now += 60
    times = [reading["relative_time"] for reading in sensor.due()]
    assert len(times) == 100
    assert sensor.finished
    assert all(time % 5_000_000 < 4_000_000 for time in times)
    assert times[39:41] == [3_900_000, 5_000_000]


@pytest.mark.parametrize(
    ("kind", "bounds"),
    [
        ("accelerometer", {"x": (-2, 2), "y": (-3, 3), "z": (6, 14)}),
        ("temperature", {"temperature": (14, 28), "humidity": (30, 60)}),
    ],
)
def test_other_kinds_measure_plausible_values(
    kind: str, bounds: dict[str, tuple[float, float]]
) -> None:
    clock = Clock(START)
    sensor = Sensor(1, Schedule(rate=KINDS[kind].rate), clock, kind=kind)
    clock.now += 60
    readings = [reading["freeform"] for reading in sensor.due()]
    assert len(readings) == 60 * KINDS[kind].rate
    for name, (low, high) in bounds.items():
        values = [reading[name] for reading in readings]
        assert low < min(values) < max(values) < high
    assert all(reading.keys() == bounds.keys() for reading in readings)
