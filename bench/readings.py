"""The readings that all sides get, as JSON, line protocol or tab-separated values."""

import json
import random
from functools import cache

EPOCH_US = 1_795_414_643_286_560
STEP_US = 1000
"""Microseconds between two readings. The jitter is smaller, so no two times are equal."""
_DISTINCT = 65_536
_TAGS = 50


@cache
def _sightings() -> list[tuple[str, str, int]]:
    """Return readings of moving RFID tags, which are the same in all runs.

    A reading is a tuple: its `freeform` (about 90 bytes), its tag and fields in line protocol, and
    the jitter of its time in microseconds.
    """
    generator = random.Random(96)  # noqa: S311 - test data
    tags = [f"{generator.getrandbits(96):024x}" for _ in range(_TAGS)]
    strengths = [generator.uniform(-75, -40) for _ in tags]
    sightings = []
    for _ in range(_DISTINCT):
        tag = generator.randrange(_TAGS)
        strengths[tag] += generator.gauss(0, 0.3)
        seen = {
            "rssi": round(strengths[tag] + generator.gauss(0, 1)),
            "epc96": tags[tag],
            "doppler": round(generator.gauss(0, 4)),
            "phase": generator.randrange(4096),
            "antenna": generator.randrange(1, 5),
        }
        fields = ",".join(f"{name}={seen[name]}i" for name in seen if name != "epc96")
        line = f"epc96={tags[tag]} {fields}"
        sightings.append((json.dumps(seen), line, generator.randrange(STEP_US)))
    return sightings


def time_of(number: int) -> int:
    """Return the interrogator timestamp of a reading, in microseconds."""
    return EPOCH_US + STEP_US * number + _sightings()[number % _DISTINCT][2]


def freeform(number: int) -> str:
    """Return the `freeform` of a reading."""
    return _sightings()[number % _DISTINCT][0]


def json_reading(number: int, password: str) -> str:
    """Return a reading as JSON, in the form of a PUT to this service."""
    text, _, _ = _sightings()[number % _DISTINCT]
    moment = time_of(number)
    return (
        f'{{"data": {{"db_password": "{password}", "freeform": {text}, '
        f'"relative_time": {moment - EPOCH_US}, "interrogator_time": {moment}}}}}'
    )


def json_readings(begin: int, count: int, password: str) -> bytes:
    """Return readings from the number `begin` on, as the body of a PUT."""
    rows = ", ".join([json_reading(number, password) for number in range(begin, begin + count)])
    return f"[{rows}]".encode()


def line(number: int, vault: str) -> str:
    """Return a reading as line protocol: vault and EPC as tags, measured values as fields."""
    _, text, _ = _sightings()[number % _DISTINCT]
    moment = time_of(number)
    return f"reading,vault={vault},{text},relative_time={moment - EPOCH_US}i {moment}"


def lines(begin: int, count: int, vault: str) -> bytes:
    """Return readings from the number `begin` on, as line protocol."""
    return "\n".join([line(number, vault) for number in range(begin, begin + count)]).encode()


def row(number: int, vault: str) -> str:
    """Return a reading as tab-separated values: vault, relative and interrogator time, freeform."""
    text, _, _ = _sightings()[number % _DISTINCT]
    moment = time_of(number)
    return f"{vault}\t{moment - EPOCH_US}\t{moment}\t{text}\n"


def rows(begin: int, count: int, vault: str) -> bytes:
    """Return readings from the number `begin` on, as tab-separated values."""
    return "".join([row(number, vault) for number in range(begin, begin + count)]).encode()


def vault_name(number: int) -> str:
    """Return the name of a vault: its password in this service, its tag in InfluxDB.

    Names of numbers below 1,000,000 have the same length, so one can replace another in a request.
    """
    return f"vault-{number:06}"
