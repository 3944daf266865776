"""The readings that every side gets: the same numbers, as JSON or as line protocol."""

import json
import random
from functools import cache

EPOCH_US = 1_795_414_643_286_560
STEP_US = 1000
"""Readings are so far apart, and up to as much jitter: no two have the same time."""
_DISTINCT = 65_536
_TAGS = 50


@cache
def _sightings() -> list[tuple[str, str, int]]:
    """What an RFID interrogator sees of tags that move, as `freeform` (about 90 bytes) and as the
    tag and fields of line protocol; and the jitter of its time. Seeded: always the same.
    """
    chance = random.Random(96)  # noqa: S311 - test data
    tags = [f"{chance.getrandbits(96):024x}" for _ in range(_TAGS)]
    strengths = [chance.uniform(-75, -40) for _ in tags]
    sightings = []
    for _ in range(_DISTINCT):
        tag = chance.randrange(_TAGS)
        strengths[tag] += chance.gauss(0, 0.3)
        seen = {
            "rssi": round(strengths[tag] + chance.gauss(0, 1)),
            "epc96": tags[tag],
            "doppler": round(chance.gauss(0, 4)),
            "phase": chance.randrange(4096),
            "antenna": chance.randrange(1, 5),
        }
        fields = ",".join(f"{name}={seen[name]}i" for name in seen if name != "epc96")
        line = f"epc96={tags[tag]} {fields}"
        sightings.append((json.dumps(seen), line, chance.randrange(STEP_US)))
    return sightings


def time_of(number: int) -> int:
    """The interrogator's time of a reading, in microseconds."""
    return EPOCH_US + STEP_US * number + _sightings()[number % _DISTINCT][2]


def freeform(number: int) -> str:
    """The `freeform` of a reading."""
    return _sightings()[number % _DISTINCT][0]


def json_reading(number: int, password: str) -> str:
    """A reading as devices of this service send it."""
    text, _, _ = _sightings()[number % _DISTINCT]
    moment = time_of(number)
    return (
        f'{{"data": {{"db_password": "{password}", "freeform": {text}, '
        f'"relative_time": {moment - EPOCH_US}, "interrogator_time": {moment}}}}}'
    )


def json_readings(begin: int, count: int, password: str) -> bytes:
    """Readings from the number `begin` on, as the body of a PUT."""
    rows = ", ".join([json_reading(number, password) for number in range(begin, begin + count)])
    return f"[{rows}]".encode()


def line(number: int, vault: str) -> str:
    """A reading as line protocol: what one asks by as tags, what was measured as fields."""
    _, text, _ = _sightings()[number % _DISTINCT]
    moment = time_of(number)
    return f"reading,vault={vault},{text},relative_time={moment - EPOCH_US}i {moment}"


def lines(begin: int, count: int, vault: str) -> bytes:
    """Readings from the number `begin` on, as line protocol."""
    return "\n".join([line(number, vault) for number in range(begin, begin + count)]).encode()


def vault_name(number: int) -> str:
    """The password, or tag, of one vault; all are of one length, so that one replaces another."""
    return f"vault-{number:06}"
