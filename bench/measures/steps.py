"""CPU of each step that readings pass, measured in this process without servers.

The function of a step is called repeatedly for a while, and the CPU of the thread is measured.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.spread import spread
from bench.stage import Stage
from iot_api.ingest.parser import put_parser
from iot_cipher.encryption import (
    SALT_BYTES,
    Entry,
    Opener,
    OpenVault,
    Sealer,
    decode_entry,
    decrypt_segment,
)
from iot_cipher.keyring import KeyringFile
from iot_models.reading import ReadingColumns
from iot_models.segment import decode_segment
from iot_models.settings import load
from iot_writer.drain.segment_builder import Arrival, build_segments

WHILE_SECONDS = 0.1
DRAINED = 10
"""Number of entries from which the measured segment is made, as in one drain."""

Step = tuple[str, int, Callable[[], Any]]
"""Name of the step, readings per call, and the function to call."""


def measure_steps(stage: Stage) -> None:
    """Measure the steps for requests of 1000 readings and for requests of one reading."""
    for what, size in (("batches of 1000", stage.scale.batch), ("one reading a request", 1)):
        section = f"CPU seconds a million readings, step by step: {what}"
        for name, readings, call in _steps(stage, size):
            costs = [_cpu(call) / readings * 1e6 for _ in range(stage.scale.rounds)]
            stage.results.detail(section, name, spread(costs), "s")


def _cpu(call: Callable[[], Any]) -> float:
    """Return the CPU seconds of one call."""
    calls, began = 0, time.thread_time()
    while (used := time.thread_time() - began) < WHILE_SECONDS or not calls:
        call()
        calls += 1
    return used / calls


def _steps(stage: Stage, size: int) -> Iterator[Step]:
    environment = stage.service.environment
    keyring = KeyringFile(Path(environment["IOT_KEYRING_FILE"]))
    sealer, opener = Sealer(keyring), Opener(keyring.current)
    vault = OpenVault(uuid.uuid4(), os.urandom(32))
    bodies = [stage.service.wire.body(size * number, size, "steps") for number in range(DRAINED)]

    parse = put_parser(load(environment))
    yield "parse", size, lambda: parse(bodies[0])

    columns = [parse(body)[0].readings for body in bodies]
    yield "compress and seal", size, lambda: _sealed(vault, sealer, columns[0])

    sealed = [_sealed(vault, sealer, each) for each in columns]
    yield "open and decompress", size, lambda: decode_entry(opener.open(0, sealed[0]).content)

    entries = [decode_entry(opener.open(0, each).content) for each in sealed]
    arrivals = [Arrival(int(time.time() * 1000), entry) for entry in entries]
    yield (
        f"make a segment of {DRAINED} entries",
        DRAINED * size,
        lambda: build_segments(arrivals, shard=0, next_id=0),
    )

    (segment,), _ = build_segments(arrivals, shard=0, next_id=0)
    yield (
        "read: decrypt, decompress, decode",
        DRAINED * size,
        lambda: decode_segment(
            segment.bounds, decrypt_segment(vault, segment.bounds, segment.payload)
        ).readings(),
    )

    bounds = segment.bounds
    opened = decode_segment(bounds, decrypt_segment(vault, bounds, segment.payload))
    readings = opened.readings()
    yield "read: JSON", DRAINED * size, lambda: msgspec.json.encode(readings)


def _sealed(vault: OpenVault, sealer: Sealer, readings: ReadingColumns) -> bytes:
    """Return a sealed entry, as the API creates it from a request."""
    salt = os.urandom(SALT_BYTES)
    sealed_at = int(time.time() * 1000)
    entry = Entry(vault.vault_id.bytes, salt, vault.chunk_key(salt), sealed_at, readings)
    return sealer.seal(0, entry.encode())
