"""Reads of all readings after a run, through the API, and counts in Postgres."""

import json
import signal
import time
from collections.abc import Sequence
from typing import cast

import msgspec

from support.keys import KEYS
from system.faults.account import Account, Judgement, Row
from system.faults.asking import ask
from system.faults.service import SHARDS, Service
from system.faults.signals import strike

DRAIN_SECONDS = 60.0
_READ_SECONDS = 60.0
_VAULT_RECORDS = KEYS.vault_record(b"") + "*"
_RECENT_SECONDS = (15, 30, 60, 240)
"""Times in seconds within the hot window."""
_UNREADABLE = """
    SELECT coalesce(sum(count), 0)::int8 FROM segments
    WHERE NOT EXISTS (SELECT FROM vaults WHERE vaults.vault_id = segments.vault_id)
"""
_COUNTS = "SELECT coalesce(sum(count), 0)::int8 FROM segments GROUP BY vault_id"


class _Answer(msgspec.Struct):
    data: list[Row]


_answer = msgspec.json.Decoder(_Answer)


class NotDrainedError(Exception):
    """The backlog did not become empty in time."""


def wait_until_drained(service: Service) -> float:
    """Return the seconds until the backlog is empty. Raise `NotDrainedError` after a timeout."""
    began = time.monotonic()
    with service.direct_redis() as client:
        while True:
            waiting: dict[str, int] = {
                f"shard {shard}": count
                for shard in range(SHARDS)
                if (count := client.xlen(KEYS.stream(shard)))
            }
            if held := client.hlen(KEYS.held_vaults):
                waiting["vaults whose entries are held"] = held
            if not waiting:
                return time.monotonic() - began
            if time.monotonic() - began > DRAIN_SECONDS:
                raise NotDrainedError(f"entries still wait: {waiting}")
            time.sleep(0.05)


def judge(service: Service, account: Account, passwords: Sequence[str]) -> Judgement:
    """Compare all stored readings with all sent readings."""
    counts = []
    for number, password in enumerate(passwords):
        rows = _read(service.port, password)
        account.enter(number, rows)
        for seconds in _RECENT_SECONDS:
            account.check_recent(_read(service.port, password, f"/seconds/{seconds}"))
        counts.append(len(rows))
    judgement = account.close()
    in_postgres = _counts(service)
    if sorted(count for count in counts if count) != in_postgres:
        judgement.altered += 1
        judgement.show(f"readings by vault: read {sorted(counts)}, in Postgres {in_postgres}")
    return judgement


def forget_vaults(service: Service) -> None:
    """Delete the records of vaults in Redis and in the API, as a day without use does."""
    with service.direct_redis() as client:
        for key in client.scan_iter(match=_VAULT_RECORDS, count=1000):
            client.delete(key)
    strike(service.api, signal.SIGKILL)
    service.wait_ready()


def left_over(service: Service) -> dict[str, int]:
    """Return counts that must be 0: dead letters, bytes in the backlog, and readings without a
    vault, which no password opens.
    """
    with service.direct_postgres() as connection:
        row = cast("tuple[int]", connection.execute(_UNREADABLE).fetchone())
    with service.direct_redis() as client:
        held = cast("bytes | None", client.hget(KEYS.backlog_counters, "bytes"))
        return {
            "dead letters": client.xlen(KEYS.dead_letters),
            "bytes counted as waiting": abs(int(held or b"0")),
            "unreadable": row[0],
        }


def _read(port: int, password: str, path: str = "") -> list[Row]:
    """Return the readings of a password. Repeat the request while a part restarts."""
    body = json.dumps({"data": {"db_password": password}}).encode()
    deadline = time.monotonic() + _READ_SECONDS
    while True:
        status, content = ask(port, "POST", f"/api/iot{path}", body)
        if status == 200:
            return _answer.decode(content).data
        if time.monotonic() > deadline:
            problem = content[:200].decode()
            raise RuntimeError(f"the readings of a password can't be read: {status} {problem}")
        time.sleep(0.2)


def _counts(service: Service) -> list[int]:
    with service.direct_postgres() as connection:
        rows = cast("list[tuple[int]]", connection.execute(_COUNTS).fetchall())
        return sorted(count for (count,) in rows)
