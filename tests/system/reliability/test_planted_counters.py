"""The service repairs counters of the backlog that another program damaged."""

import json
from pathlib import Path
from typing import cast

from redis import Redis

from support.keys import KEYS
from support.stack import Stack
from support.waiting import wait_until

DAMAGE = b"not a number"
KINDS = (b"bytes", b"in:", b"out:", b"held", b"at:", b"next:", b"session_renewals", b"rate")


def test_damaged_counters_are_repaired_automatically(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """PUTs are 503 until the next sweep, and never 500. Acknowledged readings are stored once."""
    stack = Stack(environment, tmp_path, metrics=True)
    sent: list[str] = []

    def put(freeform: str) -> int:
        status = stack.put([{"data": {"db_password": "p", "freeform": freeform}}]).status
        assert status in {201, 503}
        if status == 201:
            sent.append(freeform)
        return status

    try:
        stack.start_api("--workers=1")
        stack.start_writer()
        assert put("first") == 201
        wait_until(lambda: stack.read("p"), what="the writer")
        with Redis.from_url(environment["IOT_REDIS_URL"]) as redis:
            for kind in KINDS:
                fields = cast("list[bytes]", redis.hkeys(KEYS.backlog_counters))
                damaged = [field for field in fields if field.startswith(kind)] or [kind]
                redis.hset(KEYS.backlog_counters, mapping=dict.fromkeys(damaged, DAMAGE))
                put(f"{kind.decode()} damaged")
                metrics = stack.request("GET", "/metrics", port=stack.metrics_port)
                assert metrics.status == 200
                wait_until(
                    lambda: DAMAGE not in redis.hvals(KEYS.backlog_counters), what="the repair"
                )
                assert put(f"{kind.decode()} repaired") == 201
            wait_until(lambda: len(stack.read("p")) >= len(sent), what="all readings")
            assert [json.loads(row["freeform"]) for row in stack.read("p")] == sent
            wait_until(lambda: redis.hget(KEYS.backlog_counters, "bytes") == b"0", what="no bytes")
        logs = "".join(log.read_text(encoding="utf-8") for log in tmp_path.glob("*.log"))
        assert "the counters of the backlog in Redis are damaged; a writer repairs them" in logs
        assert "were wrong and have been recounted: bytes; find out" in logs
        assert "Traceback" not in logs
    finally:
        stack.stop()
