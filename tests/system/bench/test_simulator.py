"""The simulator obeys the laws of queues. The tests do not depend on real time."""

import random
from dataclasses import replace

import pytest
from bench.simulator import Arrivals, Load, Plant, arrival_times, main, quantile, simulate, summary
from hypothesis import given
from hypothesis import strategies as st

PLANT = Plant()
loads = st.builds(
    Load,
    rate=st.floats(1, 3000),
    batch=st.sampled_from([1, 10, 1000]),
    seconds=st.floats(0.1, 3),
    arrivals=st.sampled_from(Arrivals),
)
plants = st.builds(
    Plant,
    writers=st.integers(1, 6),
    shards=st.integers(1, 16),
    linger=st.floats(0, 0.1),
    drain=st.floats(0.0001, 0.02),
    entry=st.floats(0, 0.001),
    reading=st.floats(0, 0.00001),
    max_readings=st.integers(1, 100_000),
    backlog_readings=st.integers(0, 1_000_000),
)
seeds = st.integers(0, 1000)


@given(loads, plants, seeds)
def test_nothing_is_lost_or_doubled(load: Load, plant: Plant, seed: int) -> None:
    result = simulate(load, plant, seed)
    assert result.stored + result.refused == result.arrived
    assert min(result.waits, default=0.0) >= 0
    assert result.max_waiting * load.batch <= max(plant.backlog_readings, 0)
    assert result.drains <= result.stored
    assert result.busy <= plant.writers * result.seconds * (1 + 1e-9)


@given(loads, plants, seeds)
def test_littles_law_holds(load: Load, plant: Plant, seed: int) -> None:
    """The mean queue length is the arrival rate times the mean wait."""
    result = simulate(load, plant, seed)
    if result.stored:
        rate = result.stored / result.seconds
        mean_wait = sum(result.waits) / result.stored
        assert result.waiting == pytest.approx(rate * mean_wait)


@given(loads, plants, seeds)
def test_the_same_seed_gives_the_same_result(load: Load, plant: Plant, seed: int) -> None:
    assert simulate(load, plant, seed) == simulate(load, plant, seed)


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("batch", [1, 1000])
def test_the_backlog_grows_only_beyond_the_limit(writers: int, batch: int) -> None:
    plant = replace(PLANT, writers=writers, max_readings=20_000)
    limit = plant.limit(batch)

    def left(share: float, seconds: float) -> int:
        return simulate(Load(share * limit, batch, seconds), plant).waiting_at_end

    # The limit is reached only if writers never wait for a shard.
    assert left(0.4, 8) < 2 * left(0.4, 4) + 0.1 * limit
    first, second = left(1.3, 4), left(1.3, 8)
    assert second > 1.2 * first > 0
    assert second > 0.2 * limit * 8


def test_drains_take_more_entries_under_load() -> None:
    gathered = [simulate(Load(rate), PLANT).entries_a_drain for rate in (10, 200, 1000, 4000)]
    assert gathered == sorted(gathered)
    assert gathered[0] < 1.5
    assert gathered[-1] > 10


def test_an_idle_shard_is_drained_at_once() -> None:
    """The first entry does not wait for the linger."""
    result = simulate(Load(2, seconds=30), replace(PLANT, shards=64))
    assert quantile(result.waits, 0.5) == pytest.approx(PLANT.job + PLANT.work(1, 1))


def test_more_writers_store_more() -> None:
    plant = replace(PLANT, max_readings=500)  # otherwise one writer takes all entries
    load = Load(1.5 * plant.limit(1), seconds=4)
    one, two = (simulate(load, replace(plant, writers=number)) for number in (1, 2))
    assert one.waiting_at_end > 2 * two.waiting_at_end
    assert quantile(one.waits, 0.99) > 2 * quantile(two.waits, 0.99)


def test_more_writers_than_shards_gain_nothing() -> None:
    plant = replace(PLANT, shards=2)
    load = Load(2 * plant.limit(1), seconds=2)
    few, many = (simulate(load, replace(plant, writers=number)) for number in (2, 8))
    assert many.seconds > 0.9 * few.seconds


def test_a_full_backlog_refuses_the_excess() -> None:
    plant = replace(PLANT, backlog_readings=500)
    result = simulate(Load(3 * plant.limit(1), seconds=3), plant)
    assert result.max_waiting == 500
    assert 0.3 < result.refused / result.arrived < 0.9


@pytest.mark.parametrize("arrivals", Arrivals)
def test_requests_arrive_at_the_requested_rate(arrivals: Arrivals) -> None:
    load = Load(1000, seconds=10, arrivals=arrivals)
    found = list(arrival_times(load, random.Random(3)))
    assert len(found) == pytest.approx(10_000, rel=0.05)
    assert found == sorted(found)
    assert 0 <= found[0] <= found[-1] < 10


def test_bursts_wait_longer() -> None:
    even, bursts = (
        simulate(Load(2000, seconds=4, arrivals=each), PLANT)
        for each in (Arrivals.PERIODIC, Arrivals.BURSTY)
    )
    assert quantile(bursts.waits, 0.99) > 2 * quantile(even.waits, 0.99)


def test_the_command_prints_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rate", "50", "--seconds", "2"]) == 0
    said = capsys.readouterr().out
    for name, value in summary(Load(50, seconds=2), PLANT, simulate(Load(50, seconds=2), PLANT)):
        assert name in said
        assert value in said
