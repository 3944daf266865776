"""Responses of reads: JSON, NDJSON or CSV; short ones in one piece, long ones streamed."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
from flask import Response
from msgspec.structs import replace
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from iot_api.audit.reads import ReadRecord
from iot_api.http.content_encoding import VARY, compress_response
from iot_api.http.request import NDJSON, NDJSON_TYPES
from iot_models import metrics
from iot_models.errors import FormatError
from iot_models.reading import Reading

from .merge import Run
from .pausable_read import ColumnRun, Cursor, PausableRead

WHOLE_BYTES = 256 * 1024
"""Responses up to about this size are sent in one piece, with a Content-Length."""

CHUNK = 512
"""Number of readings encoded at a time. The output of so few readings stays in the CPU cache, so it
is cheaper to send."""
RUN_CHUNK = 2048
"""Number of readings of a `Run` encoded at a time. It may exceed `CHUNK`, because at most one text
of a `Run` is long. Larger pieces save time, because each piece costs a send."""
PIECE_CHARACTERS = 256 * 1024
"""Limit of the texts of all readings in one piece, in characters."""
CUT_CHARACTERS = 128 * 1024
"""A longer text is encoded in parts of this size. Escaping rarely more than doubles a text, so an
escaped part is rarely longer than `PIECE_CHARACTERS`."""

_QUOTE, _QUOTES = '"', '""'
_encoder = msgspec.json.Encoder()
_text_of = attrgetter("freeform")


class ReadingForm(ABC):
    """Encodes the readings of one response, piece by piece, in order."""

    media_type: str

    def __init__(self, lead: bytes = b"", between: bytes = b"") -> None:
        """`lead` precedes the first piece of readings; `between` precedes each later piece."""
        self._lead = lead
        self._between = between
        self._buffer = bytearray()

    def release(self) -> None:
        """Free the memory of the most recent piece."""
        self._buffer = bytearray()

    def _next_lead(self) -> bytes:
        lead, self._lead = self._lead, self._between
        return lead

    @abstractmethod
    def encode(self, readings: Sequence[Reading]) -> bytes:
        """Encode one or more readings, with the text that precedes them in the response.

        Return b"" if the form leaves out all of them: a series has only readings that pass its
        conditions.
        """

    @abstractmethod
    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Encode the end of the response, with `cursor` if the form can have one.

        `cursor` is None if there is no next page: then a `paged` response has the cursor `null`,
        and other responses have none.
        """


class CuttingForm(ReadingForm):
    """Encodes the text of a long reading in parts."""

    @abstractmethod
    def begin_text(self, reading: Reading, part: str) -> bytes:
        """Encode a reading with the first part of its text."""

    @abstractmethod
    def more_text(self, part: str) -> bytes:
        """Encode a further part of the text."""

    @abstractmethod
    def end_text(self, reading: Reading) -> bytes:
        """Encode the end of the reading."""


class _JsonReadings(CuttingForm):
    def begin_text(self, reading: Reading, part: str) -> bytes:
        head, _, _ = _encoder.encode(replace(reading, freeform="")).partition(b'""')
        return b'%b%b"%b' % (self._next_lead(), head, self.more_text(part))

    def more_text(self, part: str) -> bytes:
        # JSON escapes each character by itself, so the parts of a text can be encoded one by one.
        return _encoder.encode(part)[1:-1]

    def end_text(self, reading: Reading) -> bytes:
        _, _, tail = _encoder.encode(replace(reading, freeform="")).partition(b'""')
        return b'"%b' % tail


class JsonForm(_JsonReadings):
    """`{"data": [...]}`, with a member `cursor` in a page."""

    media_type = "application/json"

    def __init__(self) -> None:
        super().__init__(b'{"data":[', b",")

    def encode(self, readings: Sequence[Reading]) -> bytes:
        """Encode readings as items of the list. The first call also begins the list."""
        # Use one buffer: a copy of a response takes a tenth of the time of its encoding.
        lead, buffer = self._next_lead(), self._buffer
        _encoder.encode_into(readings, buffer, len(lead) - 1)
        buffer[: len(lead)], buffer[-1:] = lead, b""
        return bytes(buffer)

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Encode the end of the list and, in a page, the member `cursor`."""
        lead = b"" if self._lead == self._between else self._lead
        if not paged and cursor is None:
            return lead + b"]}\n"
        return b'%b],"cursor":%b}\n' % (lead, _encoder.encode(cursor))


class NdjsonForm(_JsonReadings):
    """One JSON object per line. The last line of a page holds the cursor."""

    media_type = "application/x-ndjson"

    def __init__(self) -> None:
        super().__init__(b"", b"")

    def encode(self, readings: Sequence[Reading]) -> bytes:
        """Encode each reading as one line."""
        return _encoder.encode_lines(readings)

    def end_text(self, reading: Reading) -> bytes:
        """Encode the end of the reading and of its line."""
        return super().end_text(reading) + b"\n"

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Return the line with the cursor; b"" if the response is not paged."""
        if not paged and cursor is None:
            return b""
        return b'{"cursor":%b}\n' % _encoder.encode(cursor)


class CsvForm(CuttingForm):
    """RFC 4180, with a header line. It has no cursor."""

    media_type = "text/csv"

    def __init__(self) -> None:
        columns = "id,absolute_timestamp,relative_timestamp,interrogator_timestamp,freeform"
        super().__init__(columns.encode() + b"\r\n", b"")

    def encode(self, readings: Sequence[Reading]) -> bytes:
        """Encode each reading as one line. The first call also encodes the header line."""
        lines = [
            f"{each.id},{each.absolute_timestamp},{each.relative_timestamp}"
            f',{each.interrogator_timestamp},"{each.freeform.replace(_QUOTE, _QUOTES)}"\r\n'
            for each in readings
        ]
        return self._next_lead() + "".join(lines).encode("ascii")

    def begin_text(self, reading: Reading, part: str) -> bytes:
        """Encode a line up to the end of this first part of the text."""
        return self.encode([replace(reading, freeform=part)])[: -len(b'"\r\n')]

    def more_text(self, part: str) -> bytes:
        """Encode a further part of the text, with each quote doubled."""
        return part.replace(_QUOTE, _QUOTES).encode("ascii")

    def end_text(self, reading: Reading) -> bytes:
        """Encode the end of the reading's `freeform` text, and the end of the line."""
        del reading
        return b'"\r\n'

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Return the header line if no reading was encoded, or else b""."""
        del cursor, paged
        return self._lead


_FORMS: dict[str, Callable[[], ReadingForm]] = {
    JsonForm.media_type: JsonForm,
    CsvForm.media_type: CsvForm,
    **dict.fromkeys(sorted(NDJSON_TYPES), NdjsonForm),
}


def accepted_type(environ: Mapping[str, Any]) -> str:
    """Return the media type that the `Accept` of a WSGI request prefers: JSON, NDJSON or CSV.

    It is JSON if `Accept` names none of them, as in the old server.
    """
    header = environ.get("HTTP_ACCEPT", "*/*")
    if header == "*/*":
        return JsonForm.media_type
    found = parse_accept_header(header, MIMEAccept).best_match(_FORMS, JsonForm.media_type)
    return NDJSON if found in NDJSON_TYPES else found


def requested_form(environ: Mapping[str, Any]) -> ReadingForm:
    """Return the form that a WSGI request accepts."""
    return _FORMS[accepted_type(environ)]()


class ReadingsStream:
    """Encodes the readings of a read, in pieces of about 256 KiB.

    A `CuttingForm` divides a text of more than `CUT_CHARACTERS` among several pieces. The stream
    can be paused between two pieces: then it keeps its position, but no readings.
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
        """`record` records the read in the audit log; None: it is not recorded. `form` is JSON by
        default. `paged`: the response says whether there is a next page.
        """
        self.form = form or JsonForm()
        self._paged = paged
        self._read = read
        self._record = record
        self._sent = 0
        self._batches = iter(read)
        self._encode_cursor = encode_cursor
        self._cursor: Cursor | None = None
        self._batch: Sequence[Reading] = []
        self._used = 0
        """Number of encoded readings of the batch."""
        self._cut_id = 0
        self._cut_at = 0
        """How many characters of the next reading's text are encoded already. If there are any,
        `_cut_id` is the id of this reading."""
        self._counter = metrics.counter("iot_readings_read_total")

    def pause(self) -> None:
        """Release the slot, the connection and the readings until the next piece is encoded."""
        used, self._used = self._used, 0
        self._batch = []
        self.form.release()
        self._read.pause(used, cut=self._cut_at > 0)

    def begin(self) -> None:
        """Record in the audit log that a response of several pieces begins.

        Raises:
            UnavailableError: the read can't be recorded. Then the caller must send nothing.
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
                # `begin` must do nothing if only `tail` makes the response too long for one piece.
                self._record = None
            yield tail
        finally:
            self._batch = []
            self._batches.close()
            if self._record is not None:
                self._record.abort(self._sent)

    def _next_batch(self) -> bool:
        """Fetch the next batch if all of the current batch is encoded. Return False at the end."""
        while self._used == len(self._batch):
            self._batch, self._used = [], 0
            try:
                self._batch = next(self._batches)
            except StopIteration as end:
                self._cursor = end.value
                return False
        return True

    def _piece(self) -> bytes:
        form = self.form
        if isinstance(form, CuttingForm):
            reading = self._batch[self._used]
            if self._cut_at or len(reading.freeform) > CUT_CHARACTERS:
                return self._cut_piece(reading, form)
        readings = self._next_readings() or self._batch[self._used : self._used + 1]
        piece = self.form.encode(readings)
        self._used += len(readings)
        self._count(len(readings))
        return piece

    def _next_readings(self) -> Sequence[Reading]:
        """Return the next readings that fit into one piece."""
        readings: Sequence[Reading]
        if isinstance(self._batch, ColumnRun):
            return self._batch[self._used : self._used + RUN_CHUNK]
        if isinstance(self._batch, Run):
            readings = self._batch
            if self._used or len(readings) > RUN_CHUNK:
                readings = readings[self._used : self._used + RUN_CHUNK]
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

    def _cut_piece(self, reading: Reading, form: CuttingForm) -> bytes:
        """Encode the next characters of a reading with a long text."""
        begin, end = self._cut_at, self._cut_at + CUT_CHARACTERS
        if begin and reading.id != self._cut_id:
            raise FormatError("a reading was deleted while it was being sent")
        part = reading.freeform[begin:end]
        piece = form.more_text(part) if begin else form.begin_text(reading, part)
        if end < len(reading.freeform):
            self._cut_id, self._cut_at = reading.id, end
            return piece
        self._cut_at = 0
        self._used += 1
        self._count(1)
        return piece + form.end_text(reading)

    def _count(self, readings: int) -> None:
        self._sent += readings
        self._counter.inc(readings)

    def _tail(self) -> bytes:
        if self._cut_at:
            raise FormatError("a reading was deleted while it was being sent")
        cursor = None if self._cursor is None else self._encode_cursor(self._cursor)
        return self.form.end(cursor, paged=self._paged)


def readings_answer(stream: ReadingsStream, environ: Mapping[str, Any]) -> Response:
    """Return the response to a WSGI request, with all readings."""
    return answer(stream.pieces(), stream.form.media_type, environ, stream.begin)


def answer(
    pieces: Iterator[bytes],
    media_type: str,
    environ: Mapping[str, Any],
    begin_stream: Callable[[], None] = lambda: None,
) -> Response:
    """Return the response to a WSGI request, from encoded pieces.

    The first `WHOLE_BYTES` are encoded before the response begins, so an error until then becomes
    an error response. A later error aborts the connection, so that the client can't take the
    response for a complete one. `begin_stream` is called before a response of several pieces.
    """
    begin: list[bytes] = []
    size = 0
    for piece in pieces:
        begin.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            begin_stream()
            return _response(_stream(b"".join(begin), pieces), media_type, environ)
    return _response(b"".join(begin), media_type, environ)


def empty_answer(form: ReadingForm, environ: Mapping[str, Any], *, paged: bool) -> Response:
    """Return the response to a WSGI request, without readings."""
    return _response(form.end(None, paged=paged), form.media_type, environ)


def _response(
    body: bytes | Iterable[bytes], media_type: str, environ: Mapping[str, Any]
) -> Response:
    response = Response(body, mimetype=media_type)
    if "HTTP_ACCEPT_ENCODING" in environ:
        return compress_response(response, environ)
    response.headers["Vary"] = VARY
    return response


def _stream(begin: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield begin
    del begin
    for piece in pieces:
        yield piece
        del piece
        time.sleep(0)  # let other requests of the process run
