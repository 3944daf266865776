"""The JSON dialect of old clients: all that the old server's decoder, Python's `json`, accepts.

Besides the JSON of RFC 8259, the dialect has `NaN`, `Infinity`, `-Infinity`, half a surrogate pair
as an escape (`\\ud800`), UTF-16 and UTF-32. A body goes to the strict decoder first. Only a body
that the decoder refuses is searched for these additions, so other bodies cost nothing more.
"""

import codecs
import json
import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Generic, TypeVar

import msgspec

Content = TypeVar("Content")

_SLICE = 256 * 1024
"""Number of bytes that are decoded to a `str` at a time. The `str` of a whole body could take four
times the size of the body: one character above U+FFFF makes all characters of a `str` take four
bytes each."""
_AT_ONCE = 24 * 1024
"""`hide` and `restore` cut a body into pieces of about this many bytes, and call `bytes.replace`
for each piece. In a piece of 30,000 bytes or more, CPython's search for 6 bytes or more takes twice
as long (Objects/stringlib/fastsearch.h)."""
_POSITION = re.compile(r" \(byte (\d+)\)$")
_TRUNCATED = "Input data was truncated"
_MAX_DIGITS = 9
_SHORTER_DIGITS = (1, 6)
"""The prefix of the stand-ins (see `StandIns`) has one digit. If the body contains this prefix, a
prefix with six digits is tried, and then prefixes with `_MAX_DIGITS` digits. A short prefix makes
the body grow less, but is more likely to be in the body already."""
_PAIR = b"\xff\xff"
"""Stands for a pair of backslashes while `hide` searches for escapes. UTF-8 has no byte 0xff."""
_TO_BACKSLASH = bytes.maketrans(b"\xff", b"\\")
_TAILS = {
    b"-Infinity": b"  ]",
    b"Infinity": b" ]",
    b"NaN": b"]",
    # The decoder still checks the digits: \ud8ff becomes \u08ff, which is a character.
    rb"\ud": rb"u]\u0",
    rb"\uD": rb"U]\u0",
}
"""Maps each part of a body that `StandIns` replaces to the end of its replacement."""
_SAMPLES, _SAMPLE = 16, 2048
_BORDER = re.compile(rb"[^-InfityNa\\udD]|NaN|-Infinity|(?<!-)Infinity|(?<!\\)\\")
"""Where a piece of a body may end, so that no part that `StandIns` replaces is split: before a byte
that occurs in no such part, before such a part, or before the first backslash of a run."""
_NEAR = 16
"""A number of bytes, larger than the longest part that `StandIns` replaces. `end_of_piece` searches
2 * `_NEAR` bytes for a place where the piece may end (`_BORDER`)."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """Replaces what the strict decoder refuses in a body, such as `NaN`, by valid JSON.

    A replaced part is an *original*, its replacement a *stand-in*. A stand-in consists of the
    `prefix`, which is the same for all originals, and a tail that identifies the original
    (`_TAILS`). With the prefix `[7`, the stand-in of `NaN` is `[7]`, and the stand-in of `Infinity`
    is `[7 ]`. The digits of the prefix are chosen so that the body does not contain the prefix. A
    decoded string may contain the prefix nevertheless, if the sender wrote it with an escape
    (`[\\u0037`).

    The stand-in of `NaN` or `Infinity` is an array, so it can't join with its neighbours: `-NaN`
    and `NaN1` stay errors. Originals inside a string such as `"NaN"` are replaced, too. The string
    stays one string, because no stand-in contains a quote.
    """

    prefix: bytes
    originals: tuple[bytes, ...]
    """The originals in the order of replacement. The rarest come first: stand-ins are longer than
    their originals, and a longer body makes the later searches slower. `restore` uses the reverse
    order."""
    skips_pairs: bool
    """Whether `hide` must skip pairs of backslashes. A pair is an escaped backslash, so the text
    `\\\\ud800`, with two backslashes, is not the escape `\\ud800`."""

    @classmethod
    def for_body(cls, body: bytes) -> "StandIns | None":
        """Return the stand-ins for a body, with a prefix that the body does not contain.

        Return None if the body contains nothing to replace.
        """
        # A search for one byte costs a tenth of a search for several.
        first_bytes = [first for first in b"IN\\" if first in body]
        originals = [
            original
            for original in _TAILS
            if original.lstrip(b"-")[0] in first_bytes and original in body
        ]
        if not originals:
            return None
        skips_pairs = originals[-1][:1] == b"\\" and rb"\\" in body
        sample = _sample(body)
        # `-Infinity` stays before `Infinity`: each `-Infinity` counts as an `Infinity` too.
        originals.sort(key=sample.count)
        return cls(_prefix_absent_from(body), tuple(originals), skips_pairs)

    def hide(self, body: bytes) -> bytes:
        """Replace each original in a body by its stand-in."""
        pairs = [(original, self.prefix + _TAILS[original]) for original in self.originals]
        pieces = []
        start = 0
        while start < len(body):
            end = end_of_piece(body, start)
            piece = body[start:end]
            if self.skips_pairs:
                # `replace` goes from left to right, so each remaining backslash begins an escape.
                piece = piece.replace(rb"\\", _PAIR)
            for original, stand_in in pairs:
                piece = piece.replace(original, stand_in)
            pieces.append(piece.translate(_TO_BACKSLASH) if self.skips_pairs else piece)
            start = end
            if start < len(body):
                time.sleep(0)  # other greenlets run
        return b"".join(pieces)

    def restore(self, text: bytes) -> bytes:
        """Replace each stand-in by its original, in the result of `hide` or a part of it."""
        if self.prefix not in text:
            return text
        pairs = [
            (self.prefix + _TAILS[original], original) for original in reversed(self.originals)
        ]
        longest = max(len(stand_in) for stand_in, _ in pairs)
        pieces = []
        start = 0
        while start < len(text):
            end = start + _AT_ONCE
            # The only `[` of a stand-in is its first byte: a cut before a `[` splits no stand-in.
            cut = text.rfind(b"[", max(start + 1, end - longest), end)
            end = end if cut < 0 else cut
            piece = text[start:end]
            for stand_in, original in pairs:
                piece = piece.replace(stand_in, original)
            pieces.append(piece)
            start = end
            if start < len(text):
                time.sleep(0)
        return b"".join(pieces)

    def holds(self, string: str) -> bool:
        """Return whether a decoded string contains the prefix.

        Such a string contains stand-ins, or its sender wrote the prefix with an escape.
        """
        return self.prefix.decode() in string

    def strings(self, texts: Iterable[bytes]) -> list[str]:
        """Decode JSON strings that may hold stand-ins. Each stand-in becomes its original again.

        Half a surrogate pair is no error: it stays in its string.
        """
        strings: list[str] = json.loads(b"[%b]" % self.restore(b",".join(texts)))
        return strings


def end_of_piece(body: bytes, start: int) -> int:
    """Return the end of the piece of about `_AT_ONCE` bytes that begins at `start`.

    A piece never ends inside a part that `StandIns` replaces, such as `NaN`, nor between the two
    backslashes of an escaped backslash.
    """
    end = start + _AT_ONCE
    found = _BORDER.search(body, end, end + 2 * _NEAR)
    if found:
        return found.start()
    # No `NaN` or `Infinity` begins here. Only the last backslash of a run may begin an escape.
    end = min(end + _NEAR, len(body))
    if end == len(body):
        return end
    piece = body[start:end].removesuffix(b"u")
    run = len(piece) - len(piece.rstrip(b"\\"))
    return start + len(piece) - 1 if run % 2 else end


def _sample(body: bytes) -> bytes:
    """Return random parts of a body. Counting the originals (see `StandIns`) in these parts takes
    less time than in the whole body.

    The parts are random, so that a sender can't keep frequent originals out of them.
    """
    if len(body) <= _SAMPLES * _SAMPLE:
        return body
    last = len(body) - _SAMPLE
    begins = [random.randrange(last) for _ in range(_SAMPLES)]  # noqa: S311 - nothing is secret
    return b"".join([body[begin : begin + _SAMPLE] for begin in begins])


def _prefix_absent_from(body: bytes) -> bytes:
    for digits in chain(_SHORTER_DIGITS, repeat(_MAX_DIGITS)):
        prefix = b"[%d" % random.randrange(10 ** (digits - 1), 10**digits)  # noqa: S311 - no secret
        if prefix not in body:
            break
    return prefix


class NotJsonError(ValueError):
    """A body is neither JSON nor in the dialect of old clients."""

    def __init__(self, error: Exception, strict: bytes, byte: int | None) -> None:
        """`error` is the error of the strict decoder, `strict` the body that this decoder received.

        `byte` is the position of the error in the body that the client sent, None if it is unknown.
        """
        problem = _POSITION.sub("", str(error))
        problem = "it ends too early" if problem == _TRUNCATED else problem
        super().__init__(problem if byte is None else f"{problem} (byte {byte})")
        self.strict = strict
        """The body as the strict decoder received it: in UTF-8, with the replacements of
        `StandIns`, if any."""


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Content]):
    """The result of `decode`."""

    content: Content
    strict: bytes
    """The body as the strict decoder accepted it: in UTF-8, with the replacements of `StandIns`, if
    any."""
    stand_ins: StandIns | None = None
    """The stand-ins in `content` and `strict`, if any."""

    def restored(self, part: bytes) -> bytes:
        """Return a part of `strict` as the sender wrote it."""
        return self.stand_ins.restore(bytes(part)) if self.stand_ins else bytes(part)


def decode(decoder: Callable[[bytes], Content], body: bytes) -> Decoded[Content]:
    """Decode a body that may be in the JSON dialect of old clients.

    `decoder` is the strict decoder: it accepts only JSON.

    Raises:
        NotJsonError: the body is neither JSON nor in the dialect.
        UnicodeDecodeError: the body is not in the encoding that its first bytes indicate.
        msgspec.ValidationError, RecursionError: raised by the decoder.
    """
    try:
        _check_utf8(body)
        return Decoded(decoder(body), body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError) as error:
        refused: Exception = error
    text = _to_utf8(body)
    stand_ins = StandIns.for_body(text)
    if stand_ins is None and text is body:
        raise NotJsonError(refused, body, _byte(refused)) from None
    strict = stand_ins.hide(text) if stand_ins else text
    try:
        return Decoded(decoder(strict), strict, stand_ins)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError) as error:
        refused = error
    at = _byte(refused)
    if at is not None and stand_ins:
        at = len(stand_ins.restore(strict[:at]))
    raise NotJsonError(refused, strict, at if text is body else None)


def _byte(error: Exception) -> int | None:
    """Return the position at which the decoder found an error, None if the error has none."""
    found = _POSITION.search(str(error))
    return int(found[1]) if found else None


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError unless the body is UTF-8: msgspec does not check all of it."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _SLICE):
        decoder.decode(body[start : start + _SLICE])
    decoder.decode(b"", final=True)


def _to_utf8(body: bytes) -> bytes:
    """Return the body in UTF-8 without a byte order mark: `body` itself if nothing must change.

    Raises:
        UnicodeDecodeError: the body is not in the encoding that its first bytes indicate.
    """
    encoding = json.detect_encoding(body)
    if encoding == "utf-8":
        _check_utf8(body)
        return body
    if encoding == "utf-8-sig":
        body = body[len(codecs.BOM_UTF8) :]
        _check_utf8(body)
        return body
    decoder = codecs.getincrementaldecoder(encoding)()
    pieces = []
    for start in range(0, len(body), _SLICE):
        if start:
            time.sleep(0)
        pieces.append(decoder.decode(body[start : start + _SLICE]).encode())
    decoder.decode(b"", final=True)
    return b"".join(pieces)
