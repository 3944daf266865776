"""The growth benchmark creates readable histories and fits its costs."""

import random
from itertools import chain

import psycopg
import pytest
from bench.growth_history import BATCH, MONTHS, Size, fill
from bench.measures.constants import PARTS, THINGS, Spent, solve
from bench.simulator import Load
from bench.simulator_check import Measured, fit

from iot_api.limits.clients import Client
from iot_api.service import build_service
from iot_models.errors import DecryptionError
from iot_models.settings import Settings
from iot_stores.history import ReadFilter


@pytest.mark.parametrize("size", [Size(60_000, 1), Size(60_000, 7), Size(6000, 60)])
def test_a_history_has_the_requested_size_and_a_readable_part(
    size: Size, settings: Settings
) -> None:
    service = build_service(settings)
    vault = service.vaults.find_or_create(b"growth", Client("bench"))
    window = fill(settings.postgres_url, vault, size, settings.shards)
    with psycopg.connect(settings.postgres_url) as connection:
        found = connection.execute(
            "SELECT sum(count), count(DISTINCT vault_id), count(DISTINCT tableoid) FROM segments"
        ).fetchone()
    assert found is not None
    readings, vaults, months = map(int, found)
    assert readings == pytest.approx(size.readings + 4 * BATCH, rel=0.1)
    assert (vaults, months) == (size.vaults, MONTHS)

    read = service.readings
    assert len(list(chain.from_iterable(read.latest(vault, 100)))) == 100
    question = ReadFilter(window.low, window.high)
    assert len(list(chain.from_iterable(read.select(vault, question)))) == BATCH
    assert len(list(chain.from_iterable(read.last_seconds(vault, 3600)))) == BATCH
    with pytest.raises(DecryptionError):  # most payloads are random bytes
        list(read.select(vault, ReadFilter()))
    service.close()


def _load(**things: float) -> dict[str, float]:
    return things


def test_known_costs_are_fitted() -> None:
    chance = random.Random(5)
    true = {"job": 3000.0, "drain": 4000.0, "entry": 90.0, "segment": 60.0, "reading": 1.5}
    loads = [
        dict.fromkeys(THINGS, 0.0) | {"second": 10.0},
        _load(job=400, drain=400, entry=400, segment=400, reading=400, second=20),
        _load(job=20, drain=500, entry=4000, segment=1500, reading=4000, second=20),
        _load(job=12, drain=300, entry=9000, segment=900, reading=9000, second=12),
        _load(job=12, drain=300, entry=9000, segment=7000, reading=9000, second=12),
        _load(job=2, drain=30, entry=200, segment=60, reading=2e5, second=2),
    ]
    idle = chance.uniform(0.001, 0.01)
    spent = [
        Spent(
            load,
            {"x": idle * load["second"] + sum(true[each] * load[each] for each in THINGS) / 1e6},
        )
        for load in loads
    ]
    assert solve(spent, "x", THINGS) == pytest.approx(true, rel=0.02)
    assert all(set(things) <= set(THINGS) for _, things in PARTS.values())


def test_known_costs_of_drains_are_fitted() -> None:
    measured = [
        Measured(
            load, load.seconds, load.rate * load.seconds / entries,
            0.004 + entries * 0.0002 + entries * load.batch * 0.000003, 0, 0, 0, 0,
        )
        for load, entries in ((Load(20), 1.1), (Load(600), 17.0), (Load(60, 1000), 2.5))
    ]  # fmt: skip
    plant = fit(measured)
    assert (plant.drain, plant.entry, plant.reading) == pytest.approx(
        (0.004, 0.0002, 0.000003), rel=0.02
    )
