"""Simulated readings have the fields and values of real readings."""

import itertools

from iot_tools.local.interrogator import Interrogator

START = 1_763_877_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def test_readings_are_taken_at_the_rate() -> None:
    clock = Clock()
    interrogator = Interrogator(1, 10, clock)
    assert interrogator.due() == []
    clock.now += 0.5
    assert len(interrogator.due()) == 5
    assert interrogator.due() == []
    clock.now += 60
    assert len(interrogator.due()) == 600


def test_a_simulated_reading_has_all_fields() -> None:
    clock = Clock()
    interrogator = Interrogator(7, 10, clock)
    clock.now += 1
    readings = interrogator.due()
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
    clock = Clock()
    interrogator = Interrogator(3, 40, clock)
    clock.now += 60
    by_tag: dict[str, list[int]] = {}
    for reading in interrogator.due():
        freeform = reading["freeform"]
        by_tag.setdefault(freeform["epc96"], []).append(freeform["rssi"])
    for strengths in by_tag.values():
        assert -80 <= min(strengths) < max(strengths) <= -40
        assert all(abs(b - a) <= 3 for a, b in itertools.pairwise(strengths))


def test_an_interrogator_ends_at_its_limit() -> None:
    clock = Clock()
    interrogator = Interrogator(1, 100, clock, limit=7)
    clock.now += 1
    assert len(interrogator.due()) == 7
    assert interrogator.finished
    assert interrogator.due() == []


def test_a_clock_set_back_repeats_no_reading() -> None:
    clock = Clock()
    interrogator = Interrogator(1, 10, clock)
    clock.now += 2
    taken = interrogator.due()
    clock.now -= 1
    assert interrogator.due() == []
    clock.now += 1.15
    assert [r["relative_time"] for r in interrogator.due()] == [2_000_000]
    assert len(taken) == 20
