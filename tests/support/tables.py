"""Tables in files, read and written by libraries that start threads.

The libraries are imported when a test needs them: pytest-xdist's workers are forked from a process
that has imported the tests (`worker_server.py`).
"""

from pathlib import Path
from typing import Any


def read_parquet(file: Path) -> Any:
    """Return the pyarrow table of a Parquet file."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    return pq.read_table(file)


def write_parquet(file: Path, **columns: object) -> Path:
    """Write a Parquet file with these columns. Return its path."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    pq.write_table(pa.table(columns), file)
    return file


def read_csv(file: Path) -> Any:
    """Return the pandas table of a CSV file."""
    import pandas as pd  # noqa: PLC0415

    return pd.read_csv(file)


def read_csv_with_polars(file: Path) -> Any:
    """Return the polars table of a CSV file."""
    import polars as pl  # noqa: PLC0415

    return pl.read_csv(file)
