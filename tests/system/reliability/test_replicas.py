"""With IOT_REDIS_WAIT_REPLICAS=1, an acknowledged reading is on a replica."""

import dataclasses
import json
import signal
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from iot_api.app import create_app
from iot_models.settings import Settings, load
from iot_stores import store_states
from iot_stores.backlog import UnconfirmedError
from iot_writer import jobs
from iot_writer.writer import Writer
from support.draining import drain_all
from support.waiting import wait_until
from system.reliability.redis_group import Group, Member

JSON = {"Content-Type": "application/json"}
ASKED = json.dumps({"data": {"db_password": "p"}})


@pytest.fixture
def environment(environment: dict[str, str], pair: Group) -> dict[str, str]:
    """The environment with a Redis that has a replica."""
    return environment | {"IOT_REDIS_URL": pair.url, "IOT_REDIS_WAIT_REPLICAS": "1"}


@pytest.fixture
def patient(environment: dict[str, str]) -> Iterator[FlaskClient]:
    """A client of an API that waits for no replica."""
    app = create_app(load(environment | {"IOT_REDIS_WAIT_REPLICAS": "0"}))
    yield app.test_client()
    app.extensions["iot"].close()


def put(client: FlaskClient, text: str, key: str | None = None) -> tuple[int, dict[str, str]]:
    body = json.dumps({"data": {"db_password": "p", "freeform": text}})
    headers = JSON | ({"Idempotency-Key": key} if key else {})
    answer = client.put("/api/iot", data=body, headers=headers)
    return answer.status_code, dict(answer.headers)


def texts(client: FlaskClient) -> list[str]:
    answer = client.post("/api/iot", data=ASKED, headers=JSON)
    return [json.loads(row["freeform"]) for row in json.loads(answer.data)["data"]]


def entries(member: Member) -> int:
    with member.client() as client:
        return sum(client.xlen(key) for key in client.scan_iter("iot:ingest:*"))


def test_acknowledged_readings_are_on_the_replica(client: FlaskClient, pair: Group) -> None:
    for number in range(1, 101):
        assert put(client, str(number))[0] == 201
        assert entries(pair.replica) == number


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_a_put_without_a_replica_is_503(
    client: FlaskClient, patient: FlaskClient, pair: Group, writer: Writer, how: signal.Signals
) -> None:
    assert put(client, "before")[0] == 201
    pair.replica.kill(how)
    status, headers = put(client, "meanwhile")
    assert (status, headers["Retry-After"]) == (503, "1")
    assert put(patient, "waits for none")[0] == 201
    if how is signal.SIGSTOP:
        pair.replica.kill(signal.SIGCONT)
    else:
        pair.replica.start()
    wait_until(lambda: pair.master.replicas() == 1, what="the replica in step")
    assert wait_until(lambda: put(client, "after")[0] == 201, what="an acknowledgement")
    drain_all(writer)
    read = texts(client)
    assert [text for text in read if text != "meanwhile"] == ["before", "waits for none", "after"]
    assert read.count("meanwhile") <= 1


def test_missing_replicas_are_logged_once(
    client: FlaskClient,
    pair: Group,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_states, "_reported", {})
    assert put(client, "before")[0] == 201
    pair.replica.kill(signal.SIGKILL)
    caplog.clear()
    assert [put(client, "refused")[0] for _ in range(2)] == [503, 503]
    told = "0 of 1 replicas have the readings; requests are answered 503"
    stores = [record.message for record in caplog.records if record.name.startswith("iot_stores.")]
    assert stores == [told]


def test_a_request_repeated_without_a_replica_is_stored_once(
    client: FlaskClient, pair: Group, writer: Writer
) -> None:
    pair.replica.kill(signal.SIGSTOP)
    for _ in range(3):
        assert put(client, "once", key="k")[0] == 503
    with pytest.raises(UnconfirmedError, match="0 of 1 replicas"):
        drain_all(writer)
    assert put(client, "once", key="k")[0] == 503
    pair.replica.kill(signal.SIGCONT)
    wait_until(lambda: pair.master.replicas() == 1, what="the replica in step")
    wait_until(lambda: put(client, "once", key="k")[0] == 201, what="an acknowledgement")
    status, headers = put(client, "once", key="k")
    assert (status, headers["Idempotent-Replayed"]) == (201, "true")
    drain_all(writer)
    assert texts(client) == ["once"]


def test_a_drain_without_a_replica_ends_in_one_log_line(
    client: FlaskClient,
    pair: Group,
    writer: Writer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store_states, "_reported", {})
    monkeypatch.setattr(jobs, "current", lambda: writer)
    pair.replica.kill(signal.SIGKILL)
    assert put(client, "waiting")[0] == 503
    caplog.clear()
    (shard,) = writer.backlog.oldest_ages()
    assert jobs.drain(shard) == "redis_away"
    told = [record.message for record in caplog.records if record.name == jobs.__name__]
    assert told == ["Redis is away: 0 of 1 replicas have the readings; nothing is drained"]
    assert entries(pair.master) == 1


def test_a_full_redis_that_forgot_its_scripts_is_drained(
    client: FlaskClient, pair: Group, writer: Writer
) -> None:
    assert put(client, "full")[0] == 201
    with pair.master.client() as master:
        master.config_set("maxmemory", 1)
        master.script_flush()
        drain_all(writer)
        master.config_set("maxmemory", 0)
    assert (texts(client), entries(pair.master)) == (["full"], 0)


def test_idempotency_keys_are_on_the_replica(
    client: FlaskClient, pair: Group, settings: Settings
) -> None:
    """After a failover, the promoted replica answers the repeated request."""
    assert put(client, "once", key="k")[0] == 201
    with pair.replica.client() as replica:
        replica.replicaof("NO", "ONE")
        url = pair.url.replace(str(pair.master.port), str(pair.replica.port))
        changed = dataclasses.replace(settings, redis_url=url, redis_wait_replicas=0)
        app = create_app(changed)
        assert put(app.test_client(), "once", key="k")[1]["Idempotent-Replayed"] == "true"
        app.extensions["iot"].close()
