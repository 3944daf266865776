"""Sentinels promote a replica when the master is killed, and the service continues."""

import dataclasses
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from iot_api.app import create_app
from iot_models.errors import UnavailableError
from iot_models.settings import Settings, load
from iot_stores.backlog import Backlog, UnconfirmedError
from iot_stores.redis_client import connect_redis
from iot_stores.scripts import run_commands
from iot_writer.writer import Writer
from support.draining import drain_all
from support.keys import KEYS
from support.stack import MakeStack
from support.waiting import stretched, wait_until
from system.reliability.devices import Fleet
from system.reliability.redis_group import Group, Member

DEVICES = 6
FAILOVER_SECONDS = 20
"""Limit on the time without acknowledgements. `down-after` is 1 s; a busy machine takes longer."""


@dataclass
class Failover:
    """The result of a failover."""

    seconds: float
    lost: int


def failover(make_stack: MakeStack, group: Group, wait_replicas: int) -> Failover:
    """Kill the master while devices send, and check that no reading is stored twice.

    With two replicas, one remains for `WAIT` after the promotion of the other. Sentinels promote
    the replica with most data, which has all acknowledged readings.
    """
    changes = {"IOT_REDIS_URL": group.url, "IOT_REDIS_WAIT_REPLICAS": str(wait_replicas)}
    stack = make_stack(changes, writers=2)
    with Fleet(DEVICES, [stack.port], repeating=DEVICES // 2) as fleet:
        began = time.monotonic()
        group.master.kill()
        promoted = wait_until(group.promoted, what="another master")
        assert promoted is not None
        fleet.go_on(seconds=stretched(FAILOVER_SECONDS))
        seconds = time.monotonic() - began
    for device in fleet.devices:
        assert set(device.statuses) <= {201, 503}, device.statuses
        assert not device.failures, device.failures
    wait_until(lambda: backlog_empty(promoted), what="an empty backlog")
    lost = 0
    for device in fleet.devices:
        numbers = {row["interrogator_timestamp"] for row in stack.read(device.password)}
        lost += len(device.acknowledged - numbers)
        device.acknowledged &= numbers
    fleet.check(stack.read)
    return Failover(seconds, lost)


def backlog_empty(master: Member) -> bool:
    with master.client() as client:
        return not any(client.xlen(key) for key in client.scan_iter("iot:ingest:*"))


def test_a_failover_with_wait_replicas_loses_nothing(make_stack: MakeStack, group: Group) -> None:
    done = failover(make_stack, group, wait_replicas=1)
    print(f"waiting for a replica: acknowledged again by all after {done.seconds:.1f} s")
    assert done.lost == 0


def test_a_failover_without_wait_replicas_loses_only_the_last_readings(
    make_stack: MakeStack, group: Group
) -> None:
    done = failover(make_stack, group, wait_replicas=0)
    print(
        f"waiting for no replica: acknowledged again by all after {done.seconds:.1f} s, "
        f"{done.lost} readings lost, which is what this setting allows"
    )
    assert done.lost <= DEVICES * 5


def test_a_request_repeated_after_a_failover_is_stored_once(
    environment: dict[str, str], group: Group
) -> None:
    """The master is cut off from its replicas. The writer must not store what they lack."""
    changes = {"IOT_REDIS_URL": group.url, "IOT_REDIS_WAIT_REPLICAS": "1"}
    settings = load(environment | changes)
    with closing(Writer(settings)) as writer:
        app = create_app(settings)
        client = app.test_client()

        def put(key: str) -> int:
            body = json.dumps({"data": {"db_password": "p", "freeform": key}})
            headers = {"Content-Type": "application/json", "Idempotency-Key": key}
            return client.put("/api/iot", data=body, headers=headers).status_code

        assert put("before") == 201
        drain_all(writer)
        group.cut_replication()
        assert put("cut off") == 503
        with pytest.raises(UnconfirmedError):
            drain_all(writer)
        group.fail_over()
        wait_until(lambda: put("cut off") == 201, what="an acknowledgement")
        drain_all(writer)
        asked = json.dumps({"data": {"db_password": "p"}})
        answer = client.post("/api/iot", data=asked, content_type="application/json")
        texts = [json.loads(row["freeform"]) for row in json.loads(answer.data)["data"]]
        assert texts == ["before", "cut off"]
        app.extensions["iot"].close()


def test_a_late_reply_is_not_taken_for_the_reply_to_the_next_command(
    group: Group, settings: Settings
) -> None:
    """Redis delays writes only, so the Sentinels see no failure."""
    url = f"{group.url}?socket_timeout=1"
    with (
        connect_redis(dataclasses.replace(settings, redis_url=url)) as client,
        group.master.client() as master,
    ):
        backlog = Backlog(client, KEYS, shards=1, max_bytes=1000)
        client.mset({"a": "A", "b": "B"})
        end = backlog.append([(0, b"first")]).ends[0]
        commands: list[Callable[[], object]] = [
            lambda: client.set("a", "A"),
            lambda: run_commands(client, [("SET", "a", "A")]),
            lambda: backlog.append([(0, b"late")]),
        ]
        for command in commands:
            master.client_pause(60_000, all=False)
            with pytest.raises((RedisTimeoutError, UnavailableError)):
                command()
            master.client_unpause()
            master.ping()  # the late reply is sent
            assert client.get("b") == b"B"
            assert run_commands(client, [("GET", "b"), ("GET", "a")]) == [b"B", b"A"]
            assert backlog.append([(0, b"next")]).ends[0] > end


def test_one_of_three_sentinels_is_enough(group: Group, settings: Settings) -> None:
    for sentinel in group.sentinels[:2]:
        sentinel.stop()
    with connect_redis(dataclasses.replace(settings, redis_url=group.url)) as client:
        client.set("x", 1)
    with group.master.client() as master:
        assert master.get("x") == b"1"
