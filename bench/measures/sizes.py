"""Bytes per reading in Postgres, compared with one encrypted row per reading."""

import os
import time
import uuid

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench import readings
from bench.peers.stand_in import RECORDED_BYTES
from bench.results import Kind, Row
from bench.spread import spread
from bench.stage import Stage

SIZES = "bytes"
_SCHEMA = """
    CREATE TABLE baseline_rows (
        id bigint PRIMARY KEY,
        vault_id uuid NOT NULL,
        received timestamptz NOT NULL DEFAULT now(),
        relative_timestamp bigint NOT NULL,
        interrogator_timestamp bigint NOT NULL,
        freeform bytea NOT NULL
    );
    CREATE INDEX ON baseline_rows (vault_id, interrogator_timestamp, id);
    CREATE INDEX ON baseline_rows (vault_id, relative_timestamp);
    CREATE INDEX ON baseline_rows (vault_id, received);
"""
_COPY = """
    COPY baseline_rows (id, vault_id, relative_timestamp, interrogator_timestamp, freeform)
    FROM STDIN
"""


def measure_sizes(stage: Stage) -> None:
    """Compare the size found by `batches` with a table of encrypted rows."""
    with psycopg.connect(stage.service.postgres_url, autocommit=True) as connection:
        began = time.perf_counter()
        rows_bytes = _rows_bytes(connection, stage.scale.rows)
        seconds = time.perf_counter() - began
    ours = stage.results.speed(SIZES, stage.service.name)
    row = Row("bytes a reading in Postgres, indexes counted", "B", ours)
    row.at_most(Kind.FLOOR, 1 / 4, f"one encrypted row a reading ({rows_bytes:.0f})", rows_bytes)
    row.at_most(Kind.AIM, 1 / 10, f"one encrypted row a reading ({rows_bytes:.0f})", rows_bytes)
    stage.results.rows.append(row)
    section = "bytes a reading on disk"
    if ours is not None:
        stage.results.detail(section, f"{stage.service.name}, in Postgres", ours)
    speed = f"{stage.scale.rows / seconds:,.0f} rows/s by COPY"
    stage.results.detail(section, "one row a reading, AES-256-GCM, in the same Postgres",
                         f"{rows_bytes:.1f} ({speed})")  # fmt: skip
    stage.results.detail(section, "old server, recorded", spread([RECORDED_BYTES]))


def _rows_bytes(connection: psycopg.Connection, rows: int) -> float:
    """Create the table, return its bytes per row, drop it."""
    cipher, vault = AESGCM(os.urandom(32)), uuid.uuid4()
    connection.execute(_SCHEMA)
    try:
        with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
            for number in range(rows):
                moment = readings.time_of(number)
                associated = vault.bytes + moment.to_bytes(8, "little")
                nonce = os.urandom(12)
                text = readings.freeform(number).encode()
                sealed = nonce + cipher.encrypt(nonce, text, associated)
                copy.write_row((number, vault, moment - readings.EPOCH_US, moment, sealed))
        found = connection.execute("SELECT pg_total_relation_size('baseline_rows')").fetchone()
    finally:
        connection.execute("DROP TABLE baseline_rows")
    assert found is not None  # noqa: S101 - an aggregate has a row
    return float(found[0]) / rows
