"""A simulated RFID interrogator, with tags that move."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SECOND = 1_000_000
_TAGS = 4


@dataclass(frozen=True)
class Tag:
    """A tag that moves back and forth in front of the antenna."""

    epc96: str
    period: float
    """Seconds."""
    offset: float
    """Position at the start, as a part of the period."""

    def rssi(self, seconds: float) -> int:
        """Return the signal strength at a time, in dBm. It follows the distance."""
        return round(-62 + 16 * math.sin(self._angle(seconds)))

    def doppler(self, seconds: float) -> int:
        """Return the Doppler shift at a time: greatest where the strength changes fastest."""
        return round(40 * math.cos(self._angle(seconds)))

    def phase(self, seconds: float) -> int:
        """Return the phase of the carrier at a time, 0 to 4095."""
        return round(1024 * self._angle(seconds)) % 4096

    def _angle(self, seconds: float) -> float:
        return 2 * math.pi * (seconds / self.period + self.offset)


class Interrogator:
    """Reads its tags in turn, `rate` times per second, and stops after `limit` readings if given.

    Times are in microseconds: `interrogator_time` since 1970, `relative_time` since the start.
    """

    def __init__(
        self, number: int, rate: float, clock: Callable[[], float], limit: int | None = None
    ) -> None:
        """`clock` returns seconds since 1970."""
        generator = random.Random(number)  # noqa: S311 -- movements of tags, no secrets
        self._tags = [
            Tag(f"{number:08X}{tag:016X}", generator.uniform(8, 20), generator.random())
            for tag in range(1, _TAGS + 1)
        ]
        self._rate = rate
        self._clock = clock
        self._limit = limit
        self._started = clock()
        self._taken = 0

    @property
    def finished(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self._taken >= self._limit

    def due(self) -> list[dict[str, Any]]:
        """Return the readings taken since the last call, oldest first."""
        total = int((self._clock() - self._started) * self._rate)
        total = total if self._limit is None else min(total, self._limit)
        readings = [self._reading(number) for number in range(self._taken, total)]
        self._taken = max(self._taken, total)
        return readings

    def _reading(self, number: int) -> dict[str, Any]:
        seconds = number / self._rate
        tag = self._tags[number % len(self._tags)]
        now = round((self._started + seconds) * _SECOND)
        freeform = {
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
        relative = round(seconds * _SECOND)
        return {"relative_time": relative, "interrogator_time": now, "freeform": freeform}
