"""Responses of reads: short ones in one piece, long ones streamed."""

import time
from collections.abc import Callable, Iterator
from operator import attrgetter

from flask import Response

from iot_api.audit.reads import ReadRecord
from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.reading import Reading

from .pausable_read import Cursor, PausableRead
from .reading_forms import JsonForm, ReadingForm
from .segment_reader import Run

WHOLE_BYTES = 256 * 1024
"""Responses up to about this size are sent in one piece, with a Content-Length."""

CHUNK = 512
"""Readings encoded at a time: output that stays in the CPU cache is cheaper to send."""
RUN_CHUNK = 2048
"""Readings of a `Run` encoded at a time. Its texts are short, and each piece costs a send."""
PIECE_CHARACTERS = 256 * 1024
"""Limit of their texts, in characters."""
CUT_CHARACTERS = 128 * 1024
"""A longer text is encoded in parts of this size. Escaping usually doubles a text at most."""

_text_of = attrgetter("freeform")


class ReadingsStream:
    """An encoder of the readings of a read, in pieces of about 256 KiB.

    A longer reading is encoded in several pieces. The stream can be paused between two pieces: it
    then keeps its position and no readings.
    """

    def __init__(
        self,
        read: PausableRead,
        encode_cursor: Callable[[Cursor], str] = lambda _: "",
        record: ReadRecord | None = None,
        *,
        form: ReadingForm | None = None,
        paged: bool = False,
    ) -> None:
        """`record`: the read is recorded in the audit log. `form` is JSON by default.

        `paged`: the response says that there is no next page, if so.
        """
        self.form = form or JsonForm()
        self._paged = paged
        self._read = read
        self._record = record
        self._sent = 0
        self._batches = iter(read)
        self._encode_cursor = encode_cursor
        self._cursor: Cursor | None = None
        self._batch: list[Reading] = []
        self._used = 0
        """Number of encoded readings of the batch."""
        self._cut_id = 0
        self._cut_at = 0
        """Number of encoded characters of the next reading, whose id is `_cut_id`."""
        self._counter = metrics.counter("iot_readings_read_total")

    def pause(self) -> None:
        """Release the slot, the connection and the readings until the next piece is encoded."""
        used, self._used = self._used, 0
        self._batch = []
        self.form.release()
        self._read.pause(used)

    def begin(self) -> None:
        """Record that the first piece is about to be sent, and is not the last one.

        Raises:
            UnavailableError: the read can't be recorded.
        """
        if self._record is not None:
            self._record.begin()

    def pieces(self) -> Iterator[bytes]:
        """Yield the encoded pieces."""
        try:
            while self._next_batch():
                piece = self._piece()
                if piece:
                    yield piece
                del piece
                if self._read.is_due:
                    self.pause()
            tail = self._tail()
            if self._record is not None:
                self._record.end(self._sent)
            yield tail
        finally:
            self._batch = []
            self._batches.close()
            if self._record is not None:
                self._record.abort(self._sent)

    def _next_batch(self) -> bool:
        """Fetch the next batch if the last one is encoded; return False at the end."""
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
        if self._cut_at or (self.form.cuts_texts and len(reading.freeform) > CUT_CHARACTERS):
            return self._cut_piece(reading)
        readings = self._next_readings() or [reading]
        piece = self.form.encode(readings)
        self._used += len(readings)
        self._count(len(readings))
        return piece

    def _next_readings(self) -> list[Reading]:
        """Return the next readings that fit into one piece."""
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
        part = reading.freeform[begin:end]
        piece = self.form.more_text(part) if begin else self.form.begin_text(reading, part)
        if end < len(reading.freeform):
            self._cut_id, self._cut_at = reading.id, end
            return piece
        self._cut_at = 0
        self._used += 1
        self._count(1)
        return piece + self.form.end_text(reading)

    def _count(self, readings: int) -> None:
        self._sent += readings
        self._counter.inc(readings)

    def _tail(self) -> bytes:
        if self._cut_at:
            raise FormatError("a reading was deleted while it was being sent")
        cursor = None if self._cursor is None else self._encode_cursor(self._cursor)
        return self.form.end(cursor, paged=self._paged)


def readings_answer(stream: ReadingsStream) -> Response:
    """Return a response with all readings.

    The first `WHOLE_BYTES` are encoded before the response begins, so an error until then becomes
    an error response. A later error aborts the connection, so that the client can't take the
    response for a complete one.
    """
    pieces = stream.pieces()
    begin: list[bytes] = []
    size = 0
    for piece in pieces:
        begin.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            stream.begin()
            return Response(_stream(b"".join(begin), pieces), mimetype=stream.form.media_type)
    return Response(b"".join(begin), mimetype=stream.form.media_type)


def empty_answer(form: ReadingForm, *, paged: bool) -> Response:
    """Return the response without readings."""
    return Response(form.end(None, paged=paged), mimetype=form.media_type)


def _stream(begin: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    del begin
    for piece in pieces:
        yield piece
        del piece
        time.sleep(0)  # let other requests of the process run
