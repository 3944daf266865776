"""A simulated RFID interrogator: tags that move, and the readings it takes of them."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SECOND = 1_000_000
_TAGS = 4


@dataclass(frozen=True)
class Tag:
    """A tag that walks to and fro before the antenna."""

    epc96: str
    period: float
    offset: float

    def rssi(self, seconds: float) -> int:
        """Signal strength in dBm at a time: it follows the distance, smoothly."""
        return round(-62 + 16 * math.sin(self._angle(seconds)))

    def doppler(self, seconds: float) -> int:
        """Doppler shift: greatest where the strength changes fastest."""
        return round(40 * math.cos(self._angle(seconds)))

    def phase(self, seconds: float) -> int:
        """Phase of the carrier, 0 to 4095, turning as the tag moves."""
        return round(1024 * self._angle(seconds)) % 4096

    def _angle(self, seconds: float) -> float:
        return 2 * math.pi * (seconds / self.period + self.offset)


class Interrogator:
    """Takes `rate` readings a second, of its tags in turn, up to `limit` if there is one.

    Times are microseconds: `interrogator_time` since 1970, `relative_time` since the start.
    """

    def __init__(
        self, number: int, rate: float, clock: Callable[[], float], limit: int | None = None
    ) -> None:
        """`clock` gives seconds since 1970."""
        chance = random.Random(number)  # noqa: S311 -- tags that move, not secrets
        self._tags = [
            Tag(f"{number:08X}{tag:016X}", chance.uniform(8, 20), chance.random())
            for tag in range(1, _TAGS + 1)
        ]
        self._rate = rate
        self._clock = clock
        self._limit = limit
        self._started = clock()
        self._taken = 0

    @property
    def finished(self) -> bool:
        """Whether it has taken all it was to take."""
        return self._limit is not None and self._taken >= self._limit

    def due(self) -> list[dict[str, Any]]:
        """The readings taken since the last call, oldest first."""
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
