"""The tables of docs/scaling.md that the capacity model computes.

`make docs` updates them with `python -m iot_tools.capacity.overview docs/scaling.md`.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from iot_tools.cli.tables import table

from .command import amount, costs_rows, share
from .model import Capacity, Demand, Need

FLEETS = (10_000, 1_000_000, 100_000_000)
WAYS = {
    "one a second": Demand(1, rate=1.0),
    "one a minute": Demand(1, rate=1 / 60),
    "1000 a minute, in one request": Demand(1, rate=1000 / 60, batch=1000),
}


def capacities() -> list[tuple[str, str, Capacity, Capacity]]:
    """Return a tuple for each fleet and each way in which its devices send.

    A tuple has the number of devices as text, the name of the way (a key of `WAYS`), the capacity
    with sticky routing (`Demand.sticky`), and the capacity without sticky routing.
    """
    capacities = []
    for devices in FLEETS:
        for way, demand in WAYS.items():
            default = replace(demand, devices=devices)
            routed = replace(default, sticky=True)
            capacities.append((f"{devices:,}", way, Capacity(routed), Capacity(default)))
    return capacities


def overview() -> list[str]:
    """Return the table of what each fleet needs."""
    head = ("devices", "each sends", "readings/s", "API cores (not routed)", "writers", "shards",
            "Redis cores", "Redis memory", "Postgres cores", "rows/s", "disk a year",
            "network in")  # fmt: skip
    rows: list[Sequence[str]] = []
    for devices, way, capacity, default in capacities():
        api = f"{_cores(capacity.api_cores)} ({_cores(default.api_cores)})"
        rows.append((
            devices, way, _text(capacity.demand.readings, "/s"), api,
            f"{capacity.writers}", f"{capacity.shards}", _cores(capacity.redis_cores),
            _text(capacity.redis_memory, "bytes"), _cores(capacity.postgres_cores),
            _text(capacity.segments, "/s"), _text(capacity.disk, "bytes"),
            _text(capacity.network_in, "bytes/s"),
        ))  # fmt: skip
    return table(head, rows)


def limits() -> list[str]:
    """Return the lines of a table: the limits (`Limit.hard`) that each fleet reaches first."""
    head = ("devices", "each sends", "first limit of one release", "use of it", "next limit, use",
            "releases needed")  # fmt: skip
    rows: list[Sequence[str]] = []
    for devices, way, capacity, _ in capacities():
        first, second = [limit for limit in capacity.limits() if limit.hard][:2]
        rows.append((devices, way, first.name, share(first), f"{second.name}, {share(second)}",
                     f"{capacity.releases:,}"))  # fmt: skip
    return table(head, rows)


def costs() -> list[str]:
    """Return the table of the constants of the model."""
    return table(("cost", "value", "unit", "how it was measured"), costs_rows())


TABLES = {"overview": overview, "limits": limits, "costs": costs}


def filled(text: str) -> str:
    """Return the document `text` with its tables computed again."""
    for name, made in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, old, rest = text.partition(begin)
        after = rest.partition(end)[2]
        text = "\n".join([before + begin, *made(), end]) + after if old else text
    return text


def _text(value: float, unit: str) -> str:
    return amount(Need("", "", value, unit))


def _cores(value: float) -> str:
    return _text(value, "cores").removesuffix(" cores")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
