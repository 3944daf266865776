"""DuckDB, a columnar database that runs in this process.

DuckDB shows how fast reads can be without HTTP and without encryption.
"""

from pathlib import Path

import duckdb

from bench import readings

_LOAD = """
    CREATE SEQUENCE ids;
    CREATE TABLE text (
        id BIGINT DEFAULT nextval('ids'), received TIMESTAMP DEFAULT now()::TIMESTAMP,
        vault VARCHAR, relative_timestamp BIGINT, interrogator_timestamp BIGINT, freeform VARCHAR
    );
    COPY text (vault, relative_timestamp, interrogator_timestamp, freeform)
    FROM '{rows}' (FORMAT csv, DELIMITER '\t', QUOTE '', ESCAPE '', HEADER false);
    CHECKPOINT;
"""
_SPLIT = """
    ATTACH '{texts}' AS source (READ_ONLY);
    CREATE TABLE columns AS SELECT
        id, received, vault, relative_timestamp, interrogator_timestamp,
        (freeform->>'rssi')::SMALLINT AS rssi, freeform->>'epc96' AS epc96,
        (freeform->>'doppler')::SMALLINT AS doppler, (freeform->>'phase')::SMALLINT AS phase,
        (freeform->>'antenna')::SMALLINT AS antenna
    FROM source.text;
    DETACH source;
    CHECKPOINT;
"""
_JOINED = """
    '{"rssi": ' || rssi || ', "epc96": "' || epc96 || '", "doppler": ' || doppler ||
    ', "phase": ' || phase || ', "antenna": ' || antenna || '}'
"""
_READ = """
    COPY (
        SELECT id, strftime(received, '%Y-%m-%d %H:%M:%S') AS absolute_timestamp,
            relative_timestamp, interrogator_timestamp, {freeform} AS freeform
        FROM {table} WHERE vault = '{vault}' ORDER BY interrogator_timestamp
    ) TO '{target}' (FORMAT json, ARRAY true)
"""
NOWHERE = "/dev/null"


class DuckDBFile:
    """A file with the readings of one vault."""

    def __init__(self, path: Path, table: str, freeform: str) -> None:
        self.name = f"DuckDB, freeform as {table}"
        self._path, self._table, self._freeform = path, table, freeform
        self._database = duckdb.connect(path)

    def run(self, script: str) -> None:
        """Run SQL that has no result."""
        self._database.execute(script)

    def read(self, vault: str, target: str = NOWHERE) -> int:
        """Write the readings of a vault to `target`, as JSON in order of time. Return how many."""
        query = _READ.format(freeform=self._freeform, table=self._table, vault=vault, target=target)
        (count,) = self._database.execute(query).fetchall()[0]
        return int(count)

    def disk_bytes(self) -> int:
        """Return the size of the file."""
        return self._path.stat().st_size

    def close(self) -> None:
        """Close the file."""
        self._database.close()


def filled_files(folder: Path, vault: str, count: int) -> list[DuckDBFile]:
    """Return two files with the same readings.

    The first file has `freeform` as text, the second one a column for each field of `freeform`.
    """
    rows = folder / "rows.tsv"
    rows.write_bytes(readings.rows(0, count, vault))
    texts = DuckDBFile(folder / "texts.duckdb", "text", "freeform")
    texts.run(_LOAD.format(rows=rows))
    rows.unlink()
    texts.close()  # DuckDB attaches no file that is open
    columns = DuckDBFile(folder / "columns.duckdb", "columns", _JOINED)
    columns.run(_SPLIT.format(texts=folder / "texts.duckdb"))
    return [DuckDBFile(folder / "texts.duckdb", "text", "freeform"), columns]
