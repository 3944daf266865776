"""Batches: encode readings as JSON text, and build the body of a PUT from these texts."""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from .arguments import checked_count

MAX_READINGS = 1000
"""Default maximum of readings in a batch. A request of this size costs the service a fraction of a
second."""
MAX_BYTES = 1024 * 1024
"""Maximum bytes of a batch before compression. A larger reading is a batch of its own."""
_MEMBERS = frozenset({"relative_time", "interrogator_time", "freeform", "db_password"})
"""The members of a reading that the service uses. The service ignores all other members."""


def encode_reading(reading: Mapping[str, Any], number: int) -> str:
    """Return a reading as JSON text, in ASCII. Error messages call the reading `reading <number>`.

    Raises:
        ValueError: the reading is not a mapping, JSON can't represent it, or it has a member that
            the service would ignore.
    """
    if not isinstance(reading, Mapping):
        raise ValueError(f"reading {number} is a {type(reading).__name__}, not a mapping")  # noqa: TRY004 -- as for its contents
    for name in reading:
        if name not in _MEMBERS:
            instead = (
                "put values into `freeform`, and times into `interrogator_time` and `relative_time`"
            )
            if name == "absolute_timestamp":
                instead = "only `iot-sensor import` keeps times of receipt"
            raise ValueError(
                f"reading {number} has the member {name!r}, which the service would ignore: "
                f"{instead}"
            )
    try:
        return json.dumps(dict(reading), separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"reading {number} can't be written as JSON: {error}") from None


def encode_readings(
    readings: Iterable[Mapping[str, Any]],
    encode: Callable[[Mapping[str, Any], int], str] = encode_reading,
) -> Iterator[str]:
    """Return an iterator over readings as JSON texts.

    `encode` encodes one reading, given the reading and its number. The iterator raises the errors
    of `encode`.

    Raises:
        TypeError: `readings` is not iterable.
        ValueError: `readings` is a single reading or a text.
    """
    kind = type(readings).__name__
    if not isinstance(readings, Iterable):
        raise TypeError(f"readings must be a list of mappings, not {kind}")
    if isinstance(readings, Mapping | str | bytes):
        raise ValueError(f"readings must be a list of mappings, not a {kind}")  # noqa: TRY004 -- as for its contents
    return (encode(reading, number) for number, reading in enumerate(readings))


def in_batches(rows: Iterable[str], batch_size: int, password: str | None) -> Iterator[list[str]]:
    """Divide encoded readings into batches of at most `batch_size` readings and `MAX_BYTES`.

    A reading larger than `MAX_BYTES` is a batch of its own. The same readings always give the same
    batches, so a second `Client.send` with the same arguments sends each batch under the same key.

    Raises `TypeError` or `ValueError` if `batch_size` is not an integer, or is below 1.
    """
    checked_count("batch_size", batch_size)
    added = added_bytes(password)
    batch: list[str] = []
    size = 0
    for row in rows:
        if batch and (len(batch) >= batch_size or size + added + len(row) > MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += added + len(row)
    if batch:
        yield batch


def added_bytes(password: str | None) -> int:
    """Return the bytes that `batch_body` adds to each reading."""
    return len(batch_body(["{}"], password))


def batch_body(rows: Sequence[str], password: str | None) -> bytes:
    """Return the body of a PUT of readings. Each of `rows` is a reading as JSON text.

    `password` is the password of the readings that have no `db_password`. None: the service
    stores these readings under the empty password.
    """
    first = "" if password is None else f'"db_password":{json.dumps(password)}'
    return f"[{','.join(_with_password(row, first) for row in rows)}]".encode()


def created_text(count: int) -> str:
    """Return the member `success` of the answer to a PUT of `count` readings."""
    return f"{count} object(s) created"


def _with_password(row: str, member: str) -> str:
    # Of two members with one name, the service takes the last: the reading's own.
    joint = "," if member and row != "{}" else ""
    return f'{{"data":{{{member}{joint}{row[1:]}}}'


def compressed(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=6, mtime=0)
