"""The capacity model is consistent and uses the limits of the code."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from iot_api.vaults.cache import RENEW_SECONDS
from iot_api.vaults.compaction_planner import MAX_READINGS
from iot_models.compaction_order import SMALL_READINGS
from iot_models.segment import ID_STRIDE
from iot_models.settings import Settings
from iot_tools.capacity.command import amount, limits_rows, needs_rows
from iot_tools.capacity.costs import Costs, described
from iot_tools.capacity.model import Capacity, Demand
from iot_tools.capacity.overview import TABLES, filled, limits
from iot_tools.cli.main import main
from iot_writer import jobs

COSTS = Costs()
DOCS = Path(__file__).parents[4] / "docs/scaling.md"
SINGLE = Demand(10_000, rate=1 / 60)
BATCHES = Demand(10_000, rate=1000 / 60, batch=1000)


def _needs(demand: Demand) -> dict[tuple[str, str], float]:
    return {(each.part, each.name): each.value for each in Capacity(demand).needs()}


@pytest.mark.parametrize("demand", [SINGLE, BATCHES, replace(SINGLE, idempotent=True)])
def test_ten_times_the_devices_are_ten_times_the_load(demand: Demand) -> None:
    less = _needs(demand)
    more = _needs(replace(demand, devices=10 * demand.devices))
    for name in less:
        if name[1] in {"readings", "requests", "segments", "disk a day", "memory", "WAL"}:
            assert more[name] == pytest.approx(10 * less[name]), name
        else:
            assert more[name] >= less[name], name


def test_batches_cost_less_than_single_readings() -> None:
    alone = Capacity(replace(BATCHES, batch=1, sticky=True))
    together = Capacity(replace(BATCHES, sticky=True))
    assert together.api_cores < alone.api_cores / 10
    assert together.redis_cores < alone.redis_cores / 10
    assert together.disk < alone.disk
    assert together.backlog < alone.backlog / 5


def test_the_backlog_is_a_valid_setting_and_holds_one_request() -> None:
    minimum = Settings.__dataclass_fields__["backlog_max_bytes"].metadata["minimum"]
    few = Capacity(Demand(1, rate=1 / 600))
    (row,) = (each for each in needs_rows(few) if "IOT_BACKLOG_MAX_BYTES" in each[1])
    assert float(row[2].removesuffix(" MB")) * 1e6 >= minimum
    large = Capacity(Demand(1, rate=1, batch=10**6))
    assert large.backlog >= COSTS.queued_entry + 10**6 * COSTS.queued_reading


def test_readings_within_one_linger_share_a_segment() -> None:
    few = Capacity(Demand(100_000, devices_per_vault=100_000))
    assert few.segments == pytest.approx(1 / COSTS.linger)
    seldom = Capacity(Demand(1000, rate=1 / 600))
    assert seldom.segments == pytest.approx(seldom.demand.requests, rel=1e-3)
    for demand in (SINGLE, BATCHES, Demand(10), Demand(5, rate=100, batch=10)):
        capacity = Capacity(demand)
        assert 0 < capacity.segments <= demand.requests * 1.0001


def test_the_cost_of_opening_depends_on_the_cache() -> None:
    held = Capacity(replace(SINGLE, sticky=True))
    renewals = 10_000 / (300 + 60 * 1)
    assert held.opening == pytest.approx(renewals * COSTS.api_renew / 1e6, rel=0.01)
    seldom = Capacity(Demand(1000, rate=1 / 7200, sticky=True))
    assert seldom.opening == pytest.approx(seldom.demand.requests * COSTS.api_open / 1e6)
    pushed_out = Capacity(replace(SINGLE, devices=50_001))
    assert pushed_out.opening == pytest.approx(pushed_out.demand.requests * COSTS.api_open / 1e6)
    apart = Capacity(replace(SINGLE, devices=5000, sticky=True))
    everywhere = Capacity(replace(SINGLE, devices=5000))
    assert apart.opening <= everywhere.opening < everywhere.demand.requests * COSTS.api_open / 1e6


def test_the_smallest_sufficient_number_of_processes_is_chosen() -> None:
    for devices in (100, 5000, 200_000):
        for sticky in (False, True):
            capacity = Capacity(replace(SINGLE, devices=devices, sticky=sticky))
            assert capacity.api_cores <= capacity.processes * COSTS.busy
    assert Capacity(replace(SINGLE, devices=200_000, sticky=True)).processes <= 26


def test_large_batches_are_not_merged() -> None:
    assert Capacity(BATCHES).merged == pytest.approx(1000, rel=0.01)
    assert Capacity(SINGLE).merged == pytest.approx(1440)
    assert Capacity(replace(SINGLE, rate=1)).merged == COSTS.merged_readings
    assert Capacity(replace(SINGLE, rate=1 / 86_400)).merged == pytest.approx(1, rel=1e-3)


def test_shards_and_writers_stay_within_their_limits() -> None:
    for devices in (1, 10_000, 10**6, 10**8):
        capacity = Capacity(Demand(devices, sticky=True))
        assert 8 <= capacity.shards <= COSTS.max_shards
        assert 2 <= capacity.writers <= capacity.shards


def test_a_busy_writer_runs_few_jobs() -> None:
    quiet = Capacity(Demand(10, rate=0.1, devices_per_vault=10))
    assert quiet.jobs == pytest.approx(quiet.drains, rel=0.05) == pytest.approx(1.0, rel=0.05)
    busy = Capacity(Demand(2000, devices_per_vault=100))
    assert busy.jobs == pytest.approx(1.0, rel=0.05)
    assert busy.drains == pytest.approx(1 / COSTS.linger)


def test_limits_are_sorted_by_use_and_releases_meet_them() -> None:
    demand = Demand(10**6, rate=1, sticky=True, vault_cache_seconds=86_400)
    capacity = Capacity(demand)
    used = [each.used for each in capacity.limits()]
    assert used == sorted(used, reverse=True)
    assert capacity.releases > 1
    one = Capacity(replace(demand, devices=demand.devices // capacity.releases))
    assert all(each.used <= 1.1 for each in one.limits() if each.hard)


def test_the_limits_equal_those_of_the_code() -> None:
    (shards,) = (each for each in fields(Settings) if each.name == "shards")
    assert COSTS.max_shards == shards.metadata["maximum"] == ID_STRIDE
    assert COSTS.small_readings == SMALL_READINGS
    assert (COSTS.linger, COSTS.job_seconds) == (jobs.LINGER_SECONDS, jobs.JOB_SECONDS)
    assert COSTS.renew_seconds == RENEW_SECONDS
    assert COSTS.merged_readings == MAX_READINGS
    defaults = {each.name: each.default for each in fields(Settings)}
    demand = Demand(1)
    for name in ("vault_cache_seconds", "vault_cache_size", "hot_window_seconds"):
        assert getattr(demand, name) == defaults[name]


def test_the_command_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "--devices", "1000000", "--batch", "10"]) == 0
    said = capsys.readouterr().out
    capacity = Capacity(Demand(1_000_000, batch=10))
    for row in (*needs_rows(capacity), *limits_rows(capacity)):
        assert all(cell in said for cell in row)
    assert f"among {capacity.releases} releases" in said


def test_the_command_prints_its_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", "--costs", "--markdown"]) == 0
    said = capsys.readouterr().out
    for _, value, unit, meaning, how in described():
        assert f"| {meaning} | {value:,g} | {unit} | {how} |" in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--devices", "0"], "must be from 1 to 1e15, not 0"),
        (["--devices", "1.5"], "must be a whole number, not '1.5'"),
        (["--readings-per-second", "many"], "must be a number, not 'many'"),
        (["--readings-per-second", "nan"], "must be above 0 and at most 1e15, not nan"),
        (["--readings-per-second", "0"], "must be above 0 and at most 1e15, not 0"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["capacity", *arguments])
    assert sentence in capsys.readouterr().err


def test_amounts_have_readable_units() -> None:
    needs = Capacity(Demand(10**6)).needs()
    texts = {(each.part, each.name): amount(each) for each in needs}
    assert texts["load", "readings"] == "1.0M/s"
    assert texts["writers", "shards"] == "256"
    assert texts["Postgres", "disk a day"].endswith(" TB")


def test_the_tables_in_docs_are_current() -> None:
    text = DOCS.read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->\n| " in text for name in TABLES)
    assert filled(text) == text, "run `make docs`"


def test_tables_are_replaced_between_their_markers() -> None:
    text = "before\n<!-- limits -->\nold\n<!-- end of limits -->\nbehind\n"
    begin, *lines, end, behind = filled(text).split("\n", 1)[1].splitlines()
    assert (begin, end, behind) == ("<!-- limits -->", "<!-- end of limits -->", "behind")
    assert lines == limits()
    assert len(lines) == 2 + 9
    assert filled("nothing to fill") == "nothing to fill"
