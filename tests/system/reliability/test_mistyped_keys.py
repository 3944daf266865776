"""Keys in Redis that another program overwrites with values of another type, while the service
runs: no request is answered 500, and all acknowledged readings are stored once.
"""

import json
from functools import partial
from pathlib import Path
from typing import cast

from redis import Redis

from iot_models.names import JOB_QUEUE
from support.keys import KEYS
from support.stack import MakeStack
from support.waiting import wait_until

PASSWORDS = [f"p{number}" for number in range(4)]
GROUPS = {
    "stream": [KEYS.stream(shard) for shard in range(3)],
    "counters": [KEYS.backlog_counters],
    "job list": [KEYS.job_list],
    "jobs": [f"rq:{name}:{JOB_QUEUE}" for name in ("wip", "finished", "failed", "workers")]
    + [f"rq:job:{job}" for job in ("sweep", "drain-0", "drain-1", "drain-2")]
    + ["rq:workers", "rq:queue:iot:intermediate"],
    "others": [
        KEYS.held_vaults, KEYS.dead_letters, KEYS.dead_letter_ids, KEYS.dead_letter_orders,
        KEYS.compaction_orders, KEYS.heartbeats, KEYS.remembered_counts, KEYS.password_changes,
        KEYS.unused_stream,
    ],
    "strings": [KEYS.owner, KEYS.owner_keyring, KEYS.audit_head, KEYS.tick("sweep")],
}  # fmt: skip


def test_overwritten_keys_are_repaired_automatically(
    make_stack: MakeStack, environment: dict[str, str], tmp_path: Path
) -> None:
    settings = {"IOT_SHARDS": "3", "IOT_COMPACTION_AFTER_SECONDS": "60"}
    stack = make_stack(settings, metrics=True)
    sent: dict[str, list[str]] = {password: [] for password in PASSWORDS}
    count = 0

    def put(password: str) -> int:
        nonlocal count
        count += 1
        body = json.dumps([{"data": {"db_password": password, "freeform": count}}])
        headers = {"Content-Type": "application/json", "Idempotency-Key": str(count)}
        status = stack.request("PUT", "/api/iot", body, headers).status
        assert status in {201, 503}
        if status == 201:
            sent[password].append(str(count))
        return status

    def all_stored() -> bool:
        return all(len(stack.read(password)) >= len(texts) for password, texts in sent.items())

    def serves() -> bool:
        ready = stack.request("GET", "/readyz").status == 200
        return ready and {put(password) for password in PASSWORDS} == {201}

    wait_until(serves, what="the stack")
    wait_until(all_stored, what="the first readings")
    with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
        covers = [key.decode() for key in cast("list[bytes]", redis.keys("iot:hot:cover:*"))]
        for keys in (*GROUPS.values(), covers):
            wait_until(lambda: redis.hget(KEYS.backlog_counters, "bytes") == b"0", what="no entry")
            for key in keys:
                redis.delete(key)
                if keys == GROUPS["strings"]:
                    redis.rpush(key, "planted")
                else:
                    redis.set(key, "planted")
            for password in PASSWORDS:
                put(password)
                stack.read(password, "/seconds/60")
            assert stack.request("GET", "/metrics", port=stack.metrics_port).status == 200
            wait_until(serves, what="no refused PUT")
            wait_until(all_stored, what="all readings")
            wait_until(partial(_none_is_planted, redis, keys), what=f"the repair of {keys}")
    for password, texts in sent.items():
        assert [row["freeform"] for row in stack.read(password)] == texts
        assert [row["freeform"] for row in stack.read(password, "/seconds/600")] == texts
    logs = "".join(log.read_text(encoding="utf-8") for log in tmp_path.glob("*.log"))
    assert "keys in Redis held values of another type and have been deleted: " in logs
    assert "defect" not in logs


def _none_is_planted(redis: "Redis", keys: list[str]) -> bool:
    return not any(
        (redis.type(key) == b"list" and redis.lrange(key, 0, 0) == [b"planted"])
        or (redis.type(key) == b"string" and redis.get(key) == b"planted")
        for key in keys
    )
