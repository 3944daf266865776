"""Reading back, when all is over: through the API, and by counts in Postgres."""

import http.client
import json
import time
from collections.abc import Sequence
from typing import cast

import msgspec

from faults.account import Account, Judgement, Request, Row
from faults.service import SHARDS, Service
from support.keys import KEYS

DRAIN_SECONDS = 60.0
_READ_SECONDS = 60.0
_COUNTS = "SELECT coalesce(sum(count), 0)::int8 FROM segments GROUP BY vault_id"


class _Answer(msgspec.Struct):
    data: list[Row]


_answer = msgspec.json.Decoder(_Answer)


class NotDrainedError(Exception):
    """The backlog did not become empty in time."""


def wait_until_drained(service: Service) -> float:
    """Seconds until nothing waits any more; raises `NotDrainedError` when something still does."""
    began = time.monotonic()
    with service.direct_redis() as client:
        while True:
            waiting = {
                shard: count
                for shard in range(SHARDS)
                if (count := client.xlen(KEYS.stream(shard)))
            }
            if not waiting:
                return time.monotonic() - began
            if time.monotonic() - began > DRAIN_SECONDS:
                raise NotDrainedError(f"entries still wait, by shard: {waiting}")
            time.sleep(0.05)


def judge(
    service: Service, sent: Sequence[Sequence[Request]], passwords: Sequence[str]
) -> Judgement:
    """Everything stored, held against everything sent."""
    account = Account(sent)
    counts = []
    for number, password in enumerate(passwords):
        rows = _read(service.port, password)
        account.enter(number, rows)
        counts.append(len(rows))
    judgement = account.close()
    in_postgres = _counts(service)
    if sorted(count for count in counts if count) != in_postgres:
        judgement.altered += 1
        judgement.show(f"readings by vault: read {sorted(counts)}, in Postgres {in_postgres}")
    return judgement


def left_over(service: Service) -> dict[str, int]:
    """What must be 0 in Redis: dead letters, and bytes of the backlog that are counted."""
    with service.direct_redis() as client:
        held = cast("bytes | None", client.hget(KEYS.backlog_counters, "bytes"))
        return {
            "dead letters": client.xlen(KEYS.dead_letters),
            "bytes counted as waiting": abs(int(held or b"0")),
        }


def _read(port: int, password: str) -> list[Row]:
    """All readings of a password; asked again while a part is not back yet."""
    body = json.dumps({"data": {"db_password": password}})
    deadline = time.monotonic() + _READ_SECONDS
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_READ_SECONDS)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/api/iot", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return _answer.decode(content).data
            problem = content[:200].decode()
        except (OSError, http.client.HTTPException) as error:
            problem = repr(error)
        finally:
            connection.close()
        if time.monotonic() > deadline:
            raise RuntimeError(f"a password's readings can't be read: {problem}")
        time.sleep(0.2)


def _counts(service: Service) -> list[int]:
    with service.direct_postgres() as connection:
        rows = cast("list[tuple[int]]", connection.execute(_COUNTS).fetchall())
        return sorted(count for (count,) in rows)
