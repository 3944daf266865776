"""The options of `make run`."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from iot_models.errors import SettingsError

_MAX_DEVICES = 1000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Validated options. `started` is the time when `make` started, in seconds since 1970."""

    port: int
    data_dir: Path
    devices: int
    tls: bool
    started: float


def parse(given: Mapping[str, str]) -> Options:
    """Parse the make variables PORT, DATA_DIR, DEVICES, TLS and STARTED (seconds since 1970).

    Raises:
        SettingsError: a variable is invalid, or the directory DATA_DIR can't be used.
    """
    return Options(
        port=_number("PORT", given["PORT"], 1, 65_535),
        devices=_number("DEVICES", given["DEVICES"], 0, _MAX_DEVICES),
        tls=bool(_number("TLS", given["TLS"], 0, 1)),
        started=_timestamp(given["STARTED"]),
        data_dir=_directory(given["DATA_DIR"]),
    )


def _number(name: str, text: str, low: int, high: int) -> int:
    if text.isascii() and text.isdigit() and low <= int(text[:9]) <= high:
        return int(text[:9])
    wanted = f"{low} or {high}" if high == low + 1 else f"an integer from {low} to {high}"
    raise SettingsError(f"{name} must be {wanted}, not {text!r}")


def _timestamp(text: str) -> float:
    """Parse the output of `date +%s.%N`. Return the present time if the text is empty.

    Instead of nanoseconds, the `date` of some systems prints the letter N, which is ignored.
    """
    return float(text.rstrip("N")) if text else time.time()


def _directory(text: str) -> Path:
    if not text.strip():
        raise SettingsError("DATA_DIR must name a directory")
    path = Path(text).expanduser().absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"DATA_DIR {text} can't be used: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise SettingsError(f"DATA_DIR {text} can't be used: no permission to write in it")
    return path
