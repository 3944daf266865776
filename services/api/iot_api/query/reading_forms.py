"""The forms of a response with readings: JSON, NDJSON and CSV."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from iot_api.http.request import NDJSON_TYPES
from iot_models.reading import Reading

_encoder = msgspec.json.Encoder()


class ReadingForm(ABC):
    """Encodes the readings of one response, piece by piece, in order.

    The text of a long reading is encoded in parts: `begin_text`, `more_text`, `end_text`.
    """

    media_type: str
    cuts_texts = True
    """Whether long readings are encoded in parts."""

    def __init__(self, lead: bytes, between: bytes) -> None:
        """`lead` is before the first reading, `between` before each other one."""
        self._lead = lead
        self._between = between
        self._buffer = bytearray()

    def release(self) -> None:
        """Free the memory of the last piece."""
        self._buffer = bytearray()

    def _next_lead(self) -> bytes:
        lead, self._lead = self._lead, self._between
        return lead

    @abstractmethod
    def encode(self, readings: list[Reading]) -> bytes:
        """Encode readings. There must be one."""

    @abstractmethod
    def begin_text(self, reading: Reading, part: str) -> bytes:
        """Encode a reading with the first part of its text."""

    @abstractmethod
    def more_text(self, part: str) -> bytes:
        """Encode a further part of the text."""

    @abstractmethod
    def end_text(self, reading: Reading) -> bytes:
        """Encode the end of the reading."""

    @abstractmethod
    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Encode the end of the response. `paged`: say whether there is a next page."""


class _JsonReadings(ReadingForm):
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

    def encode(self, readings: list[Reading]) -> bytes:
        """Encode readings."""
        # Into one buffer: each copy of a response costs a tenth of its encoding.
        lead, buffer = self._next_lead(), self._buffer
        _encoder.encode_into(readings, buffer, len(lead) - 1)
        buffer[: len(lead)], buffer[-1:] = lead, b""
        return bytes(buffer)

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """End the list."""
        lead = b"" if self._lead == self._between else self._lead
        if not paged and cursor is None:
            return lead + b"]}\n"
        return b'%b],"cursor":%b}\n' % (lead, _encoder.encode(cursor))


class NdjsonForm(_JsonReadings):
    """One JSON object a line. The last line of a page holds the cursor."""

    media_type = "application/x-ndjson"

    def __init__(self) -> None:
        super().__init__(b"", b"")

    def encode(self, readings: list[Reading]) -> bytes:
        """Encode readings."""
        return _encoder.encode_lines(readings)

    def end_text(self, reading: Reading) -> bytes:
        """End the line."""
        return super().end_text(reading) + b"\n"

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Add the line with the cursor."""
        if not paged and cursor is None:
            return b""
        return b'{"cursor":%b}\n' % _encoder.encode(cursor)


class CsvForm(ReadingForm):
    """RFC 4180, with a header line. There is no place for a cursor."""

    media_type = "text/csv"

    def __init__(self) -> None:
        columns = "id,absolute_timestamp,relative_timestamp,interrogator_timestamp,freeform"
        super().__init__(columns.encode() + b"\r\n", b"")

    def encode(self, readings: list[Reading]) -> bytes:
        """Encode readings."""
        lines = [
            f"{each.id},{each.absolute_timestamp},{each.relative_timestamp}"
            f',{each.interrogator_timestamp},"{each.freeform.replace(_QUOTE, _QUOTES)}"\r\n'
            for each in readings
        ]
        return self._next_lead() + "".join(lines).encode("ascii")

    def begin_text(self, reading: Reading, part: str) -> bytes:
        """Begin the line."""
        return self.encode([replace(reading, freeform=part)])[: -len(b'"\r\n')]

    def more_text(self, part: str) -> bytes:
        """Double the quotes."""
        return part.replace(_QUOTE, _QUOTES).encode("ascii")

    def end_text(self, reading: Reading) -> bytes:
        """End the line."""
        del reading
        return b'"\r\n'

    def end(self, cursor: str | None, *, paged: bool) -> bytes:
        """Return the header line if there is no reading."""
        del cursor, paged
        return self._lead


_QUOTE, _QUOTES = '"', '""'

_FORMS: dict[str, Callable[[], ReadingForm]] = {
    JsonForm.media_type: JsonForm,
    CsvForm.media_type: CsvForm,
    **dict.fromkeys(sorted(NDJSON_TYPES), NdjsonForm),
}


def requested_form(environ: Mapping[str, Any]) -> ReadingForm:
    """Return the form that the `Accept` of a WSGI request prefers; JSON if it names none of them,
    as the old server did.
    """
    header = environ.get("HTTP_ACCEPT", "*/*")
    if header == "*/*":
        return JsonForm()
    accepted = parse_accept_header(header, MIMEAccept)
    return _FORMS[accepted.best_match(_FORMS, JsonForm.media_type)]()
