"""The constants of the capacity model.

`make bench` measures most of them. `make docs` copies the measured constants from
bench/results.json to `measured.py`.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from .measured import MEASURED


def _cost(value: float, unit: str, meaning: str, how: str) -> Any:
    return field(default=value, metadata={"unit": unit, "meaning": meaning, "how": how})


_LOADS = "fitted to five loads"
_QUEUE = "used_memory with a waiting backlog, writer stopped"
_DISK = "pg_total_relation_size of segments of 1 and of 1000 readings"
_CODE = "constant in the code"
_ASSUMED = "assumed"


@dataclass(frozen=True, slots=True)
class Costs:
    """The constants of the model. The model assumes that each request becomes one entry."""

    api_entry: float = _cost(
        MEASURED["api_entry"], "µs", "API: a request, without its readings", _LOADS
    )
    api_reading: float = _cost(
        MEASURED["api_reading"], "µs", "API: a reading (parse, seal)", _LOADS
    )
    api_open: float = _cost(
        MEASURED["api_open"], "µs", "API: opening a vault (scrypt, N=2^17)", "timed separately"
    )
    api_renew: float = _cost(300.0, "µs", "API: looking up the record of an open vault",
                             "timed separately")  # fmt: skip
    redis_entry: float = _cost(
        MEASURED["redis_entry"], "µs", "Redis: appending and removing an entry", _LOADS
    )
    redis_reading: float = _cost(
        MEASURED["redis_reading"], "µs", "Redis: appending and removing a reading's bytes", _LOADS
    )
    redis_segment: float = _cost(
        MEASURED["redis_segment"], "µs", "Redis: writing a segment to the hot window", _LOADS
    )
    redis_drain: float = _cost(MEASURED["redis_drain"], "µs", "Redis: a drain", _LOADS)
    redis_job: float = _cost(MEASURED["redis_job"], "µs", "Redis: an RQ job", _LOADS)
    writer_entry: float = _cost(MEASURED["writer_entry"], "µs", "writer: opening an entry", _LOADS)
    writer_reading: float = _cost(
        MEASURED["writer_reading"], "µs", "writer: a reading (decode, encode, encrypt)", _LOADS
    )
    writer_segment: float = _cost(MEASURED["writer_segment"], "µs", "writer: a segment", _LOADS)
    writer_drain: float = _cost(MEASURED["writer_drain"], "µs", "writer: a drain", _LOADS)
    writer_job: float = _cost(MEASURED["writer_job"], "µs", "writer: an RQ job", _LOADS)
    postgres_entry: float = _cost(MEASURED["postgres_entry"], "µs", "Postgres: an entry", _LOADS)
    postgres_reading: float = _cost(
        MEASURED["postgres_reading"], "µs", "Postgres: a reading's bytes", _LOADS
    )
    postgres_segment: float = _cost(
        MEASURED["postgres_segment"], "µs", "Postgres: a segment", _LOADS
    )
    postgres_drain: float = _cost(
        MEASURED["postgres_drain"], "µs", "Postgres: a drain's transaction", _LOADS
    )

    json_reading: float = _cost(MEASURED["json_reading"], "bytes", "a reading as JSON", "counted")
    http_entry: float = _cost(700.0, "bytes", "a request and its answer, without readings, "
                              "on an open TLS connection", "counted, plus TLS records")  # fmt: skip
    queued_entry: float = _cost(MEASURED["queued_entry"], "bytes", "Redis: a waiting entry", _QUEUE)
    queued_reading: float = _cost(
        MEASURED["queued_reading"], "bytes", "Redis: a reading in a waiting entry", _QUEUE
    )
    hot_segment: float = _cost(MEASURED["hot_segment"], "bytes",
                               "Redis: a segment in the hot window, without its payload",
                               "used_memory of the hot window")  # fmt: skip
    vault_record: float = _cost(MEASURED["vault_record"], "bytes",
                                "Redis: a vault used in the last day",
                                "MEMORY USAGE, plus its slot in the hash table")  # fmt: skip
    remembered: float = _cost(250.0, "bytes", "Redis: an Idempotency-Key of the last day",
                              "MEMORY USAGE, plus its slot in the hash table")  # fmt: skip
    stored_reading: float = _cost(
        MEASURED["stored_reading"], "bytes", "Postgres: a reading in a full segment", _DISK
    )
    stored_segment: float = _cost(MEASURED["stored_segment"], "bytes",
                                  "Postgres: a segment's row and index entries", _DISK)  # fmt: skip
    stored_vault: float = _cost(350.0, "bytes", "Postgres: a vault",
                                "pg_total_relation_size of vaults")  # fmt: skip
    wal_factor: float = _cost(MEASURED["wal_factor"], "bytes",
                              "Postgres: WAL for a stored byte, page images included",
                              "pg_current_wal_lsn over the loads")  # fmt: skip
    open_vault: float = _cost(1000.0, "bytes", "API process: an open vault",
                              "resident memory by open vaults")  # fmt: skip

    job_seconds: float = _cost(1.0, "s", "longest time one job runs drains", _CODE)
    linger: float = _cost(
        0.015, "s", "minimum time between the starts of two drains of a writer", _CODE
    )
    renew_seconds: float = _cost(300.0, "s", "time after which the record of a vault in use is "
                                 "looked up again",
                                 _CODE)  # fmt: skip
    max_shards: int = _cost(256, "", "maximum number of shards (ID_STRIDE)", _CODE)
    small_readings: int = _cost(
        512, "", "a segment of this number of readings, or more, is not merged", _CODE
    )
    merged_readings: int = _cost(8192, "", "maximum number of readings in a merged segment; "
                                 "it has readings of one day only", _CODE)  # fmt: skip
    busy: float = _cost(0.6, "", "planned utilisation of a core", _ASSUMED)
    redis_cores: float = _cost(1.0, "", "cores that one Redis can use for commands",
                               _ASSUMED)  # fmt: skip
    postgres_cores: float = _cost(64.0, "", "cores of a large Postgres primary", _ASSUMED)
    postgres_rows: float = _cost(50_000.0, "rows/s", "rows that one primary can insert, with seven "
                                 "indexes", _ASSUMED)  # fmt: skip
    postgres_disk: float = _cost(32e12, "bytes", "disk of one primary that can still be restored "
                                 "in a day", _ASSUMED)  # fmt: skip
    redis_memory: float = _cost(64e9, "bytes", "memory of one Redis whose AOF is rewritten in "
                                "minutes", _ASSUMED)  # fmt: skip
    network: float = _cost(1.25e9, "bytes/s", "network of one machine (10 Gbit/s)", _ASSUMED)


def described() -> list[tuple[str, float, str, str, str]]:
    """Return a tuple for each constant, in the order of `Costs`: its name, value, unit and meaning,
    and how it was measured."""
    return [
        (cost.name, cost.default, *(cost.metadata[key] for key in ("unit", "meaning", "how")))
        for cost in fields(Costs)
    ]
