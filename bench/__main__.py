"""`make bench`: how fast readings are acknowledged, stored and read back, on this machine.

Load generator, API, writer, Redis and Postgres share the machine's cores. Each round sends the
same readings under new passwords; medians and the spread of all rounds are printed.
"""

import http.client
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

from .load import put_requests, send
from .service import Running, running_service

ROUNDS = 5
CONNECTIONS = 4
BATCHES, BATCH = 100, 1000
SINGLES = 1500
STORE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Round:
    """What one round measured, each in its unit a second."""

    acknowledged: float
    stored: float
    single: float
    read: float


def main() -> None:
    """Run all rounds and print the table."""
    with running_service() as service, psycopg.connect(service.postgres_url, autocommit=True) as db:

        def stored() -> int:
            row = db.execute("SELECT coalesce(sum(count), 0)::int8 FROM segments").fetchone()
            return int(row[0]) if row else 0

        rounds = [_round(service, stored, number) for number in range(ROUNDS)]
    print(f"{'':44}{'median':>12}{'lowest':>12}{'highest':>12}")
    _row("batches of 1000: acknowledged, readings/s", [each.acknowledged for each in rounds])
    _row("batches of 1000: sent to stored, readings/s", [each.stored for each in rounds])
    _row("one reading a request: requests/s", [each.single for each in rounds])
    _row("read back as JSON, readings/s", [each.read for each in rounds])


def _round(service: Running, stored: Callable[[], int], number: int) -> Round:
    passwords = [f"bench {number} {lane}" for lane in range(CONNECTIONS)]
    for password in passwords:
        send(service.port, [put_requests(1, 1, password)])
    lanes = [put_requests(BATCHES, BATCH, password) for password in passwords]
    before, readings = stored(), CONNECTIONS * BATCHES * BATCH
    began = time.perf_counter()
    acknowledged = send(service.port, lanes)
    while stored() < before + readings:
        if time.perf_counter() - began > STORE_SECONDS:
            raise RuntimeError(f"not stored after {STORE_SECONDS} s")
        time.sleep(0.005)
    store_seconds = time.perf_counter() - began
    single = send(service.port, [put_requests(SINGLES, 1, password) for password in passwords])
    return Round(
        acknowledged=readings / acknowledged.seconds,
        stored=readings / store_seconds,
        single=single.requests / single.seconds,
        read=_read(service, passwords[0]),
    )


def _read(service: Running, password: str) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    body = json.dumps({"data": {"db_password": password}})
    began = time.perf_counter()
    connection.request("POST", "/api/iot", body, {"Content-Type": "application/json"})
    answer = connection.getresponse().read()
    seconds = time.perf_counter() - began
    connection.close()
    count = answer.count(b'"interrogator_timestamp":')
    if count < BATCHES * BATCH:
        raise RuntimeError(f"{count} readings came back, of {BATCHES * BATCH} and more")
    return count / seconds


def _row(what: str, values: list[float]) -> None:
    print(f"{what:44}{statistics.median(values):12,.0f}{min(values):12,.0f}{max(values):12,.0f}")


if __name__ == "__main__":
    main()
