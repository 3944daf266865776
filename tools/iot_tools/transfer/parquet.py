"""Imports the library for Parquet files, which is an optional dependency."""

from typing import Any

from iot_models.errors import IotError


def pyarrow() -> tuple[Any, Any]:
    """Import `pyarrow` and `pyarrow.parquet`.

    Raises:
        IotError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa  # noqa: PLC0415 -- an extra of the package
        import pyarrow.parquet as pq  # noqa: PLC0415
    except ImportError:
        raise IotError("Parquet needs pyarrow: pip install pyarrow, or use CSV or NDJSON") from None
    return pa, pq
