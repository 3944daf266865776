"""Answers in JSON, small ones whole and long ones streamed."""

import time
from collections.abc import Callable, Iterator
from operator import attrgetter

import msgspec
from flask import Response
from msgspec.structs import replace

from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.reading import Reading

from .cursor import Cursor
from .pausable_read import PausableRead
from .segment_rows import Run

WHOLE_BYTES = 256 * 1024
"""Answers up to about this size are sent in one piece, with their length."""

CHUNK = 512
"""Most readings encoded at a time: what stays in the processor's cache is cheaper to send."""
RUN_CHUNK = 2048
"""Most readings of a `Run`, whose texts are known to be short enough: a piece more costs a send."""
PIECE_CHARACTERS = 256 * 1024
"""Most characters of their texts."""
CUT_CHARACTERS = 128 * 1024
"""A longer text is encoded in parts of this size. Escaping doubles a text at most, as a rule."""

_JSON = "application/json"
_LEAD = b'{"data":['
_encoder = msgspec.json.Encoder()
_text_of = attrgetter("freeform")


class ReadingsStream:
    """`{"data": [...]}` with the readings of a read, in pieces of about 256 KiB.

    A longer reading is sent in several pieces. Between two pieces the stream can be paused: it
    keeps nothing of the readings then, only how far it got.
    """

    def __init__(
        self, read: PausableRead, encode_cursor: Callable[[Cursor], str] = lambda _: ""
    ) -> None:
        self._read = read
        self._batches = iter(read)
        self._encode_cursor = encode_cursor
        self._cursor: Cursor | None = None
        self._batch: list[Reading] = []
        self._used = 0
        """Readings of the batch that were encoded."""
        self._cut_id = 0
        self._cut_at = 0
        """Characters that were encoded of the text of the next reading, which has `_cut_id`."""
        self._lead = _LEAD
        self._buffer = bytearray()
        self._counter = metrics.counter("iot_readings_read_total")

    def pause(self) -> None:
        """Release everything that the answer holds, until the next piece is asked for."""
        used, self._used = self._used, 0
        self._batch, self._buffer = [], bytearray()
        self._read.pause(used)

    def pieces(self) -> Iterator[bytes]:
        """Encode the answer piece by piece."""
        try:
            while self._next_batch():
                yield self._piece()
                if self._read.is_due:
                    self.pause()
            yield self._tail()
        finally:
            self._batch = []
            self._batches.close()

    def _next_batch(self) -> bool:
        """Get another batch if all readings of the last one were encoded; False at the end."""
        while self._used == len(self._batch):
            self._batch, self._used = [], 0
            try:
                self._batch = next(self._batches)
            except StopIteration as end:
                self._cursor = end.value
                return False
        return True

    def _piece(self) -> bytes:
        reading = self._batch[self._used]
        if self._cut_at or len(reading.freeform) > CUT_CHARACTERS:
            return self._cut_piece(reading)
        readings = self._fitting()
        # Into one buffer: every copy of an answer costs as much as a tenth of its making.
        lead, buffer = self._lead, self._buffer
        _encoder.encode_into(readings, buffer, len(lead) - 1)
        buffer[: len(lead)], buffer[-1:] = lead, b""
        self._lead = b","
        self._used += len(readings)
        self._counter.inc(len(readings))
        return bytes(buffer)

    def _fitting(self) -> list[Reading]:
        """As many of the next readings as make one piece."""
        if isinstance(self._batch, Run):
            readings = self._batch[self._used : self._used + RUN_CHUNK]
            if len(readings[-1].freeform) <= CUT_CHARACTERS:
                return readings
        readings = self._batch[self._used : self._used + CHUNK]
        if sum(map(len, map(_text_of, readings))) <= PIECE_CHARACTERS:
            return readings
        size = count = 0
        for reading in readings:
            size += len(reading.freeform)
            if size > PIECE_CHARACTERS:
                break
            count += 1
        return readings[:count]

    def _cut_piece(self, reading: Reading) -> bytes:
        """Encode the next characters of a reading with a long text."""
        begin, end = self._cut_at, self._cut_at + CUT_CHARACTERS
        if begin and reading.id != self._cut_id:
            raise FormatError("a reading was deleted while it was being sent")
        # Each character is escaped for itself, so the parts of a text can be encoded one by one.
        piece = _encoder.encode(reading.freeform[begin:end])[1:-1]
        head, _, tail = _encoder.encode(replace(reading, freeform="")).partition(b'""')
        if not begin:
            piece = b'%b%b"%b' % (self._lead, head, piece)
            self._lead = b","
        if end < len(reading.freeform):
            self._cut_id, self._cut_at = reading.id, end
            return piece
        self._cut_at = 0
        self._used += 1
        self._counter.inc()
        return b'%b"%b' % (piece, tail)

    def _tail(self) -> bytes:
        if self._cut_at:
            raise FormatError("a reading was deleted while it was being sent")
        tail = b"]}\n"
        if self._cursor is not None:
            tail = b'],"cursor":"%b"}\n' % self._encode_cursor(self._cursor).encode()
        return tail if self._lead == b"," else self._lead + tail


def readings_answer(stream: ReadingsStream) -> Response:
    """`{"data": [...]}` with the readings of all batches, in order; with `"cursor": "..."` behind
    them if there are more.

    Nothing is sent before some of it is ready, so an error up to there is answered as such. One
    that comes later breaks the answer off, so that it can't be mistaken for a whole one.
    """
    pieces = stream.pieces()
    begin: list[bytes] = []
    held = 0
    for piece in pieces:
        begin.append(piece)
        held += len(piece)
        if held > WHOLE_BYTES:
            return Response(_stream(b"".join(begin), pieces), mimetype=_JSON)
    return Response(b"".join(begin), mimetype=_JSON)


def _stream(begin: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Let other requests of the process have their turn between two pieces."""
    yield begin
    del begin
    for piece in pieces:
        yield piece
        del piece
        time.sleep(0)
