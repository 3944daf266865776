"""Answers in JSON, small ones whole and long ones streamed."""

import time
from collections.abc import Callable, Iterator

import msgspec
from flask import Response

from iot_models import metrics
from iot_models.reading import Reading

from .cursor import Cursor
from .readings import Batches

WHOLE_BYTES = 256 * 1024
"""Answers up to about this size are sent in one piece, with their length."""

CHUNK = 512
"""Readings encoded at a time: what stays in the processor's cache is cheaper to send."""

_JSON = "application/json"
_LEAD = b'{"data":['
_encoder = msgspec.json.Encoder()


def json_answer(content: object, status: int = 200) -> Response:
    """An answer with `content` as JSON and a newline, as the old server ended its answers."""
    return Response(_encoder.encode(content) + b"\n", status, mimetype=_JSON)


def readings_answer(batches: Batches, text_of: Callable[[Cursor], str] = lambda _: "") -> Response:
    """`{"data": [...]}` with the readings of all batches, in order; with `"cursor": "..."` behind
    them if there are more.

    Nothing is sent before some of it is ready, so an error up to there is answered as such. One
    that comes later breaks the answer off, so that it can't be mistaken for a whole one.
    """
    chunks = _chunks(batches, text_of)
    begin: list[bytes] = []
    held = 0
    for chunk in chunks:
        begin.append(chunk)
        held += len(chunk)
        if held > WHOLE_BYTES:
            return Response(_stream(b"".join(begin), chunks), mimetype=_JSON)
    return Response(b"".join(begin), mimetype=_JSON)


def _chunks(batches: Batches, text_of: Callable[[Cursor], str]) -> Iterator[bytes]:
    counter = metrics.counter("iot_readings_read_total")
    cursor: Cursor | None = None

    def taken() -> Iterator[list[Reading]]:
        nonlocal cursor
        cursor = yield from batches

    lead, buffer = _LEAD, bytearray()
    for batch in taken():
        for start in range(0, len(batch), CHUNK):
            readings = batch[start : start + CHUNK]
            # Into one buffer: every copy of an answer costs as much as a tenth of its making.
            _encoder.encode_into(readings, buffer, len(lead) - 1)
            buffer[: len(lead)], buffer[-1:] = lead, b""
            yield bytes(buffer)
            lead = b","
            counter.inc(len(readings))
    tail = b"]}\n" if cursor is None else b'],"cursor":"%b"}\n' % text_of(cursor).encode()
    yield tail if lead == b"," else lead + tail


def _stream(begin: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Let other requests of the process have their turn between two chunks."""
    yield begin
    for chunk in chunks:
        yield chunk
        time.sleep(0)
