"""Simulated sensors: RFID interrogators, accelerometers and thermometers."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

_SECOND = 1_000_000
_TAGS = 4

Measure = Callable[[int, float, int], dict[str, Any]]
"""Returns the `freeform` of a reading. Arguments: the number of the reading, the seconds since the
sensor started, and Unix time in µs."""


class Kind(NamedTuple):
    """A kind of sensor, such as a thermometer: its usual rate, and how it measures."""

    rate: float
    """Usual number of readings a second."""
    make: Callable[[int], Measure]
    """Takes the number of a sensor, and returns its `Measure`, which is the same in each run."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a sensor takes readings: at a rate, with random delays (`jitter`) and gaps."""

    rate: float
    """Readings a second."""
    jitter: float = 0.0
    """How late a reading may be, as a part of the time between two readings (0 to 1)."""
    gap_every: float = 0.0
    """Time between two gaps in seconds; 0: no gaps. A sensor takes no readings in a gap."""
    gap_seconds: float = 0.0
    """Length of a gap in seconds."""

    def in_gap(self, seconds: float) -> bool:
        """Return whether the time `seconds` after the start lies in a gap without readings."""
        if not self.gap_every:
            return False
        return seconds % (self.gap_every + self.gap_seconds) >= self.gap_every


class Sensor:
    """Takes readings as scheduled, and stops after `limit` readings, if a limit is given.

    Times are in microseconds: `interrogator_time` since 1970, `relative_time` since the start.
    """

    def __init__(
        self,
        number: int,
        schedule: Schedule,
        clock: Callable[[], float],
        *,
        kind: str = "rfid",
        limit: int | None = None,
    ) -> None:
        """`clock` returns seconds since 1970. `kind` is one of `KINDS`."""
        self._measure = KINDS[kind].make(number)
        self._schedule = schedule
        self._clock = clock
        self._limit = limit
        self._started = clock()
        self._delays = random.Random(number)  # noqa: S311 -- delays, no secrets
        self._next = 0
        self._taken = 0

    @property
    def finished(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self._taken >= self._limit

    def due(self) -> list[dict[str, Any]]:
        """Take the readings that are due since the last call. Return them, oldest first."""
        total = int((self._clock() - self._started) * self._schedule.rate)
        readings = []
        while self._next < total and not self.finished:
            delay = self._delays.random() * self._schedule.jitter
            seconds = (self._next + delay) / self._schedule.rate
            if not self._schedule.in_gap(seconds):
                readings.append(self._reading(seconds))
                self._taken += 1
            self._next += 1
        return readings

    def _reading(self, seconds: float) -> dict[str, Any]:
        now = round((self._started + seconds) * _SECOND)
        freeform = self._measure(self._next, seconds, now)
        relative = round(seconds * _SECOND)
        return {"relative_time": relative, "interrogator_time": now, "freeform": freeform}


@dataclass(frozen=True)
class _Tag:
    """A tag that moves back and forth in front of the antenna."""

    epc96: str
    period: float
    """Seconds in which the tag moves back and forth once."""
    offset: float
    """Position at the start, as a part of the period."""

    def rssi(self, seconds: float) -> int:
        """Return the signal strength at a time, in dBm: the nearer the tag, the stronger."""
        return round(-62 + 16 * math.sin(self._angle(seconds)))

    def doppler(self, seconds: float) -> int:
        """Return the Doppler shift at a time: greatest where the strength changes fastest."""
        return round(40 * math.cos(self._angle(seconds)))

    def phase(self, seconds: float) -> int:
        """Return the phase of the carrier at a time, 0 to 4095: 4096 would be a full cycle."""
        return round(1024 * self._angle(seconds)) % 4096

    def _angle(self, seconds: float) -> float:
        return 2 * math.pi * (seconds / self.period + self.offset)


def _interrogator(number: int) -> Measure:
    """Return a function that measures like an RFID interrogator, which reads its tags in turn."""
    generator = random.Random(number)  # noqa: S311 -- movements of tags, no secrets
    tags = [
        _Tag(f"{number:08X}{tag:016X}", generator.uniform(8, 20), generator.random())
        for tag in range(1, _TAGS + 1)
    ]

    def measure(reading: int, seconds: float, now: int) -> dict[str, Any]:
        tag = tags[reading % len(tags)]
        return {
            "rssi": tag.rssi(seconds),
            "epc96": tag.epc96,
            "doppler": tag.doppler(seconds),
            "phase": tag.phase(seconds),
            "antenna": 1,
            "rospecid": 0,
            "channelindex": 0,
            "tagseencount": 1,
            "accessspecid": 0,
            "inventoryparameterspecid": 0,
            "lastseentimestamp": now,
            "antennastate": -1,
        }

    return measure


def _accelerometer(number: int) -> Measure:
    """Return a function that measures like an accelerometer on a walking person, in m/s²."""
    generator = random.Random(number)  # noqa: S311 -- noise, no secrets
    steps = generator.uniform(1.6, 2.1)  # a second

    def measure(reading: int, seconds: float, now: int) -> dict[str, Any]:
        del reading, now
        angle = 2 * math.pi * steps * seconds
        clean = {
            "x": 0.8 * math.sin(angle / 2),
            "y": 1.6 * math.sin(angle + 0.6),
            "z": 9.81 + 2.4 * math.sin(angle),
        }
        return {axis: round(value + generator.gauss(0, 0.05), 3) for axis, value in clean.items()}

    return measure


def _thermometer(number: int) -> Measure:
    """Return a function that measures in a room: temperature in °C, relative humidity in %."""
    generator = random.Random(number)  # noqa: S311 -- noise, no secrets
    base = generator.uniform(19, 23)

    def measure(reading: int, seconds: float, now: int) -> dict[str, Any]:
        del reading, seconds
        day = 2 * math.pi * (now / _SECOND % 86_400) / 86_400
        temperature = base - 2.5 * math.cos(day) + generator.gauss(0, 0.05)
        humidity = 45 + 6 * math.cos(day) + generator.gauss(0, 0.2)
        return {"temperature": round(temperature, 2), "humidity": round(humidity, 1)}

    return measure


KINDS: Mapping[str, Kind] = {
    "rfid": Kind(10.0, _interrogator),
    "accelerometer": Kind(50.0, _accelerometer),
    "temperature": Kind(1.0, _thermometer),
}
