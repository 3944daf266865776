"""Plain Postgres: COPY stores each reading as one row, not encrypted."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from bench import readings
from bench.load import Wire
from bench.peers.side import Peer
from iot_tools.local.postgres_server import PostgresServer

_SETTINGS = {"shared_buffers": "256MB", "max_wal_size": "2GB"}
_SCHEMA = """
    CREATE TABLE readings (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        received timestamptz NOT NULL DEFAULT now(),
        vault text NOT NULL,
        relative_timestamp bigint NOT NULL,
        interrogator_timestamp bigint NOT NULL,
        freeform text NOT NULL
    );
    CREATE INDEX ON readings (vault, interrogator_timestamp);
    CREATE INDEX ON readings (vault, received);
"""
_COPY = "COPY readings (vault, relative_timestamp, interrogator_timestamp, freeform) FROM STDIN"


class PostgresRows(Peer):
    """A separate server of the Postgres that this service uses. A batch is a transaction."""

    name = "Postgres, COPY"
    durability = "acknowledged = committed, with fsync; not encrypted"
    settings = (
        f"COPY of a batch a transaction, {', '.join(map(' '.join, _SETTINGS.items()))}; a row a "
        "reading, indexes: id, vault and interrogator time, vault and time of arrival"
    )
    disk_scope = "table and indexes"
    wire = Wire("COPY", "", "text/tab-separated-values", 0, readings.rows, readings.row)

    def __init__(self, folder: Path, port: int) -> None:
        super().__init__(folder, port)
        self._server = PostgresServer(folder / "server", settings=_SETTINGS)

    def start(self) -> None:
        """Create a database cluster, start its server, and create the table."""
        self._server.start()
        with psycopg.connect(self._server.url, autocommit=True) as connection:
            connection.execute(_SCHEMA)

    def stop(self) -> None:
        """Stop the server."""
        self._server.stop()

    def version(self) -> str:
        """Return the version of the server."""
        with psycopg.connect(self._server.url) as connection:
            number = connection.info.server_version
        return f"PostgreSQL {number // 10_000}.{number % 10_000}"

    def send_batches(self, lanes: Sequence[Sequence[bytes]]) -> float:
        """Copy the batches of each lane over a connection of its own.

        Return the seconds until all batches are committed.
        """
        with ThreadPoolExecutor(len(lanes)) as pool:
            began = time.perf_counter()
            for _ in pool.map(self._copy, lanes):
                pass
            return time.perf_counter() - began

    def _copy(self, lane: Sequence[bytes]) -> None:
        with (
            psycopg.connect(self._server.url, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            for batch in lane:
                with cursor.copy(_COPY) as copy:
                    copy.write(batch)

    def stored(self) -> int:
        """Return the number of rows."""
        return self._number("SELECT count(*) FROM readings")

    def disk_bytes(self) -> int:
        """Return the size of the table and its indexes."""
        return self._number("SELECT pg_total_relation_size('readings')")

    def _number(self, statement: str) -> int:
        with psycopg.connect(self._server.url) as connection:
            row = connection.execute(statement).fetchone()
        return int(row[0]) if row else 0
