"""`iot-sensor send`: send one reading, or the readings on standard input, one JSON per line."""

import json
import math
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from iot_models.errors import IotError, SettingsError
from iot_models.text_files import is_unicode
from iot_sensor_client import Client, ClientError, Outbox, OutboxError, OutboxInUseError

BATCH_READINGS = 1000
_GATHER_SECONDS = 0.5
_ATTEMPT_SECONDS = 5.0
_LAST_REQUEST_SECONDS = 20.0
"""How long the last request of another run may take: by default, a `Client` waits up to 10 s for a
connection, and then up to 10 s for an answer."""
_IN_USE_PAUSE_SECONDS = 0.1
_NEXT = "next"
_KEPT = "stored in the outbox"
_MEMBERS = {"freeform", "relative_time", "interrogator_time"}


def send(client: Client, url: str, readings: Iterable[dict[str, Any]]) -> int:
    """Send readings in batches. Return their number once all are acknowledged.

    The message of an error says how many readings were acknowledged before the error.

    Raises:
        SettingsError: iterating over `readings` raised this error, for example at an invalid line.
        IotError: a batch was not acknowledged. Later batches were not sent.
    """
    sent = 0
    try:
        for batch in batches(readings):
            sent += client.send(batch)
    except SettingsError as error:
        raise SettingsError(f"{error}{_before(sent)}") from None
    except ClientError as error:
        raise IotError(f"{url}: {error.reason}{_before(sent + error.acknowledged)}") from None
    return sent


def _before(readings: int, done: str = "acknowledged") -> str:
    return f"; {counted(readings)} {done} before" if readings else ""


def send_through(
    path: Path, client: Client, readings: Iterable[dict[str, Any]], *, wait_seconds: float
) -> str:
    """Store readings in an outbox file, and send all readings in the file, older ones too.

    Return a text that says how many were acknowledged, or how many wait. Readings that are not
    acknowledged within `wait_seconds` stay in the file, and the next call sends them. If
    `wait_seconds` is 0, the call waits for one attempt, for up to 5 s. Before that, if another run
    uses the file, the call waits as long as a run with the same `wait_seconds` may take.

    Raises:
        IotError: the outbox can't store the readings, or it has set readings aside during this call
            and does not send them again. The outbox sets readings aside if the service refuses them
            for good, or if it is not known whether the service has stored them.
        SettingsError: as in `send`. The message of an error says how many readings the outbox
            stored before the error.
    """
    stored = 0
    seconds = wait_seconds or _ATTEMPT_SECONDS
    try:
        with _open_outbox(path, client, seconds + _LAST_REQUEST_SECONDS) as outbox:
            for batch in batches(readings):
                outbox.send(batch)
                stored += len(batch)
            outbox.flush(timeout=seconds)
            outbox.close(timeout=0)  # which completes a request under way
            counts = outbox.statistics()
    except OutboxError as error:  # which names the file
        raise IotError(f"{error}{_before(stored, _KEPT)}") from None
    except ValueError as error:
        raise IotError(f"{path}: {error}{_before(stored, _KEPT)}") from None
    except SettingsError as error:
        raise SettingsError(f"{error}{_before(stored, _KEPT)}") from None
    if counts.set_aside:
        raise IotError(
            f"{path}: {counted(counts.set_aside)} set aside: {counts.set_aside_reason}; the file "
            "keeps them, but they are not sent again: see Outbox.rejected() of the Python client"
        )
    if counts.waiting:
        reason = f" ({counts.last_error})" if counts.last_error else ""
        return f"{counted(counts.waiting)} not sent yet, kept in {path}{reason}"
    return f"{counted(counts.acknowledged)} acknowledged"


def _open_outbox(path: Path, client: Client, seconds: float) -> Outbox:
    until = time.monotonic() + seconds
    while True:
        try:
            return Outbox(client, path, linger=0.0)
        except OutboxInUseError:
            if time.monotonic() > until:
                raise
            time.sleep(_IN_USE_PAUSE_SECONDS)


def counted(readings: int) -> str:
    """Return "1 reading", "2 readings" and so on."""
    return "1 reading" if readings == 1 else f"{readings} readings"


def batches(readings: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Yield readings in batches of at most `BATCH_READINGS`.

    A batch ends half a second after its first reading, even if it is not full, so that readings
    that arrive slowly are sent soon.
    """
    waiting: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue(BATCH_READINGS)

    def fill() -> None:
        try:
            for reading in readings:
                waiting.put(reading)
            waiting.put(None)
        except Exception as error:  # noqa: BLE001 -- raised in the thread that sends
            waiting.put(error)

    threading.Thread(target=fill, daemon=True).start()
    while True:
        batch: list[dict[str, Any]] = []
        found: dict[str, Any] | Exception | str | None = waiting.get()
        until = time.monotonic() + _GATHER_SECONDS
        while isinstance(found, dict):
            batch.append(found)
            left = until - time.monotonic()
            try:
                found = waiting.get(timeout=left) if len(batch) < BATCH_READINGS else _NEXT
            except (queue.Empty, ValueError):  # no time is left
                found = _NEXT
        if batch:
            yield batch
        if isinstance(found, Exception):
            raise found
        if found is None:
            return


def reading_of(fields: Sequence[str], taken_at: str) -> dict[str, Any]:
    """Return a reading whose `freeform` has the given fields, each a text `name=value`.

    A value that is JSON is sent as JSON, any other value as a text. `taken_at` is `now`, or a time
    in a form that the service takes.

    Raises:
        SettingsError: a field is not a text `name=value`, is given twice, is not UTF-8, has a
            number that is too large, or is nested too deeply.
    """
    freeform = {}
    for field in fields:
        name, equals, value = field.partition("=")
        if not name or not equals:
            raise SettingsError(f"{field!r} does not have the form FIELD=VALUE")
        if not is_unicode(field):
            raise SettingsError(f"{field!r} is not UTF-8")
        if name in freeform:
            raise SettingsError(f"field {name!r} is given twice: give it one value")
        try:
            freeform[name] = _parse(value)
        except OverflowError as error:
            raise SettingsError(f"{field!r}: {error}") from None
        except ValueError:
            freeform[name] = value
    return {"interrogator_time": _time(taken_at), "freeform": freeform}


def parse_lines(lines: Iterable[str], taken_at: str) -> Iterator[dict[str, Any]]:
    """Yield a reading for each line of JSON.

    A line is a whole reading if it is an object with `freeform` and, at most, `relative_time` and
    `interrogator_time`. Any other JSON becomes the `freeform` of a reading. Readings without
    `interrogator_time` get the time `taken_at`. The caller must decode the lines with
    `surrogateescape`, so that bytes that are not UTF-8 are noticed here.

    Raises:
        SettingsError: a line is not JSON or not UTF-8, has a number that is too large, or is nested
            too deeply.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if not is_unicode(line):
            raise SettingsError(f"line {number} is not UTF-8")
        try:
            value = _parse(line)
        except OverflowError as error:
            raise SettingsError(f"line {number}: {error}") from None
        except ValueError as error:
            raise SettingsError(f"line {number} is not JSON: {error}") from None
        is_reading = isinstance(value, dict) and "freeform" in value and value.keys() <= _MEMBERS
        reading = value if is_reading else {"freeform": value}
        yield {"interrogator_time": _time(taken_at), **reading}


def _parse(text: str) -> Any:
    """Parse JSON. Raises `OverflowError` if a number is too large, or values are nested too deeply.

    Raises `ValueError` for a text that is not JSON.
    """
    try:
        return json.loads(text, parse_float=_finite)
    except RecursionError:
        raise OverflowError("is nested too deeply") from None


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise OverflowError(f"{text} is too large: use a number below 1.8e308, or a text")
    return number


def _time(taken_at: str) -> int | str:
    """Return the present time in µs for `now`, else `taken_at` itself, which the service checks."""
    return round(time.time() * 1_000_000) if taken_at == "now" else taken_at
