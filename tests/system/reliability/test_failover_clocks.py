"""Redis fails over while a drain commits, and the clock of the old master was ahead."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from iot_stores.stream_entries import Removal
from iot_writer.writer import Writer
from support.draining import drain_all
from support.shifted_clock import ShiftedClock
from support.waiting import wait_until
from system.reliability.redis_group import Group

AHEAD_SECONDS = 60


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    """A master whose clock is ahead, a replica and three Sentinels."""
    clock = ShiftedClock(tmp_path / "clock", AHEAD_SECONDS)
    made = Group(tmp_path / "group", replicas=1, sentinels=3, master_environment=clock.environment)
    yield made
    made.stop()


@pytest.fixture
def environment(environment: dict[str, str], group: Group) -> dict[str, str]:
    """The environment with that Redis."""
    return environment | {"IOT_REDIS_URL": group.url}


def put(client: FlaskClient, text: str) -> int:
    body = json.dumps({"data": {"db_password": "p", "freeform": text}})
    return client.put("/api/iot", data=body, content_type="application/json").status_code


def texts(client: FlaskClient) -> list[str]:
    asked = json.dumps({"data": {"db_password": "p"}})
    answer = client.post("/api/iot", data=asked, content_type="application/json")
    return [json.loads(row["freeform"]) for row in json.loads(answer.data)["data"]]


def test_readings_that_the_new_master_acknowledges_are_stored(
    client: FlaskClient, writer: Writer, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal of entries that were lost reaches the new master, which has lower ids."""
    assert put(client, "replicated") == 201
    drain_all(writer)
    group.cut_replication()
    assert put(client, "on the old master only") == 201
    remove = writer.backlog.remove

    def fail_over_and_remove(removals: Sequence[Removal]) -> list[bool]:
        group.fail_over()
        wait_until(lambda: put(client, "on the new master") == 201, what="an acknowledgement")
        return remove(removals)

    with monkeypatch.context() as patch:
        patch.setattr(writer.backlog, "remove", fail_over_and_remove)
        writer.drain_shards(range(writer.settings.shards))
    drain_all(writer)
    stored = texts(client)
    assert set(stored) == {"replicated", "on the old master only", "on the new master"}
    assert len(stored) - stored.count("on the new master") == 2
