"""Tables in files, read by libraries that start threads.

The libraries are imported when a test needs them: pytest-xdist's workers are forked from a process
that has imported the tests (`worker_server.py`).
"""

from pathlib import Path
from typing import Any


def read_parquet(file: Path) -> Any:
    """Return the pyarrow table of a Parquet file."""
    import pyarrow.parquet as pq  # noqa: PLC0415

    return pq.read_table(file)


def read_csv(file: Path) -> Any:
    """Return the pandas table of a CSV file."""
    import pandas as pd  # noqa: PLC0415

    return pd.read_csv(file)


def read_csv_with_polars(file: Path) -> Any:
    """Return the polars table of a CSV file."""
    import polars as pl  # noqa: PLC0415

    return pl.read_csv(file)
