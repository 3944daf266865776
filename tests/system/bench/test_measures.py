"""Every measure runs on few readings and returns figures."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench import wrk
from bench.__main__ import MEASURES, run
from bench.machine import durability, machine, versions
from bench.measures import constants, flood
from bench.measures.read_back import READ, fill
from bench.measures.singles import measure_singles
from bench.peers.duckdb_file import filled_files
from bench.peers.influxdb import InfluxDB
from bench.peers.postgres_rows import PostgresRows
from bench.peers.stand_in import StandIn
from bench.profiles import available
from bench.results import Results
from bench.scale import Scale
from bench.stage import PEERS, Stage, staged

from iot_sensor_client import Client
from iot_tools.capacity.measured import MEASURED
from support.fork_server import ForkingLauncher

TINY = Scale(
    name="tiny", rounds=1, lanes=2, batches=2, batch=250, single_seconds=1,
    read=4000, streamed=4000, fresh_seconds=1, fresh_singles=20,
    flood_seconds=0.3, constants=0.02,
    profile_seconds=1, starts=1, fresh_install=False,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def short_measures() -> Iterator[None]:
    """Fork the services, derive the key of a password once, and begin beside a new flood."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.service.Launcher", ForkingLauncher)
        patch.setattr(constants, "OPENED", 1)
        patch.setattr(flood, "_BEGIN_SECONDS", 0.1)
        yield


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """The service and the installed peers."""
    with staged(TINY) as made:
        yield made


def measured(stage: Stage, name: str) -> Results:
    """Run one measure, and return its results."""
    now = dataclasses.replace(stage, results=Results(speeds=stage.results.speeds))
    run(now, name, *MEASURES[name])
    assert now.results.failures == []
    return now.results


def without_arrival(reading: dict[str, Any]) -> dict[str, Any]:
    return {name: reading[name] for name in reading if name not in {"id", "absolute_timestamp"}}


def test_missing_peers_are_reported_and_skipped(stage: Stage) -> None:
    absent = {kind for kind in PEERS if not kind.installed()}
    assert set(stage.peers) == {kind.name for kind in PEERS if kind not in absent}
    assert {StandIn.name, PostgresRows.name} <= set(stage.peers)
    for kind in absent:
        assert any(f"apt-get install {kind.package}" in note for note in stage.results.notes)


def test_batches_and_their_stored_sizes_are_measured(stage: Stage) -> None:
    results = measured(stage, "batches")
    speed, size = results.rows
    assert [bar.held is None for bar in speed.bars] == [False, *[not InfluxDB.installed()] * 2]
    assert any("stand-in" in note and "real server" in note for note in results.notes)
    assert results.speed("batches stored", PostgresRows.name) is not None
    assert [bar.held is None for bar in size.bars] == [False]
    sizes = {each.name for each in results.details if each.section == "bytes a reading on disk"}
    assert set(stage.peers) < sizes


def test_reads_are_compared_with_peers(stage: Stage) -> None:
    results = measured(stage, "read")
    (row,) = results.rows
    assert row.ours is not None
    assert [bar.held is None for bar in row.bars] == [False, *[not InfluxDB.installed()] * 2]
    assert {"DuckDB, freeform as text", "DuckDB, freeform as columns"} < set(results.speeds[READ])


def test_duckdb_returns_what_this_service_returns(stage: Stage, tmp_path: Path) -> None:
    (vault,) = stage.new_vaults(1)
    fill(stage.service, vault, 1000, 1)
    with Client(f"http://127.0.0.1:{stage.service.port}", vault) as client:
        ours = client.read()
    for file in filled_files(tmp_path, vault, 1000):
        assert file.read(vault, str(tmp_path / "answer.json")) == 1000
        theirs = json.loads((tmp_path / "answer.json").read_bytes())
        assert [without_arrival(row) for row in theirs] == [without_arrival(row) for row in ours]
        file.close()


def test_memory_of_a_streaming_read_is_measured(stage: Stage) -> None:
    row = measured(stage, "memory").rows[0]
    assert row.ours is not None
    assert 10 < row.ours.median < 1000


def test_single_requests_are_measured(stage: Stage) -> None:
    rows = measured(stage, "singles").rows
    assert [row.ours is not None for row in rows] == ([True] * 4 if wrk.installed() else [False])


def test_a_device_beside_floods_is_measured(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flood.SETTINGS, "IOT_SCRYPT_LOG2_N", "12")
    monkeypatch.setattr(flood, "OPENINGS", 1)
    rows = measured(stage, "flood").rows
    assert len(rows) == (9 if wrk.installed() else 0)
    assert None not in {bar.held for row in rows for bar in row.bars}


def test_single_requests_are_not_measured_without_wrk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    now = dataclasses.replace(stage, results=Results())
    measure_singles(now)
    assert {bar.verdict for bar in now.results.rows[0].bars} == {"not measured"}


def test_the_time_from_201_to_readable_is_measured(stage: Stage) -> None:
    rows = measured(stage, "freshness").rows
    assert len(rows) == 2
    assert all(row.ours is not None for row in rows)


def test_profiles_show_cpu_time_by_stage(stage: Stage) -> None:
    results = measured(stage, "profile")
    if available() is None:
        assert any("py-spy" in note for note in results.notes)
        return
    assert "API, batches of 1000" in results.profiles
    assert any(detail.name == "API: parse" for detail in results.details)


def test_steps_of_requests_are_measured(stage: Stage) -> None:
    names = [detail.name for detail in measured(stage, "steps").details]
    assert len(names) == 12
    assert {"parse", "compress and seal", "read: JSON"} < set(names)


def test_constants_of_the_capacity_model_are_measured(stage: Stage) -> None:
    values = {each.name: float(each.value) for each in measured(stage, "constants").details}
    assert values.keys() == MEASURED.keys()
    assert values["api_entry"] > 0


def test_shards_are_compared(stage: Stage) -> None:
    assert len(measured(stage, "shards").rows[0].bars) == 2


def test_the_first_start_is_measured(stage: Stage) -> None:
    assert measured(stage, "start").rows[0].ours is not None


def test_a_failed_part_is_reported(stage: Stage) -> None:
    def fail(_: Stage) -> None:
        raise RuntimeError("it broke")

    now = dataclasses.replace(stage, results=Results())
    run(now, "some", fail, 5)
    assert now.results.failures == ["some: RuntimeError: it broke"]


def test_machine_and_versions_are_reported(stage: Stage) -> None:
    assert dict(machine())["cores"]
    assert {"Redis", "PostgreSQL", *stage.peers} <= set(dict(versions(stage)))
    assert all("fsync" in text or "memory" in text or "nothing" in text
               for _, text in durability(stage))  # fmt: skip
