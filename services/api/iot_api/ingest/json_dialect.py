"""JSON as Python's `json` takes it, which read the requests of the old server.

Beyond RFC 8259: `NaN`, `Infinity`, `-Infinity`, half a surrogate pair as an escape (`\\ud800`), and
UTF-16 and UTF-32. The decoder is strict. Only a body that it refuses is looked at again here, so
plain bodies pay nothing.
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
"""Bytes that are decoded at once: one astral character makes decoded text four times as large."""
_AT_ONCE = 24 * 1024
"""Bytes in which stand-ins are put or found at once, about. From 30,000 bytes on, CPython's search
for 6 bytes or more takes twice as long (Objects/stringlib/fastsearch.h)."""
_POSITION = re.compile(r" \(byte (\d+)\)$")
_TRUNCATED = "Input data was truncated"
_MOST_DIGITS = 9
_SHORTER_DIGITS = (1, 6)
"""Digits of a mark: few, so that a body grows little; more, if a body holds the short mark."""
_PAIR = b"\xff\xff"
"""Stands for a pair of backslashes while `hide` looks for escapes. UTF-8 never holds this byte."""
_TO_BACKSLASH = bytes.maketrans(b"\xff", b"\\")
_TAILS = {
    b"-Infinity": b"  ]",
    b"Infinity": b" ]",
    b"NaN": b"]",
    # The decoder goes on to check the digits: \ud8ff becomes \u08ff, which is a character.
    rb"\ud": rb"u]\u0",
    rb"\uD": rb"U]\u0",
}
"""How the stand-ins end."""
_SAMPLES, _SAMPLE = 16, 2048
_BORDER = re.compile(rb"[^-InfityNa\\udD]|NaN|-Infinity|(?<!-)Infinity|(?<!\\)\\")
"""A byte of no original, or where an original begins."""
_NEAR = 16
"""More bytes than the longest original has."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """Strict JSON that takes the place of what the decoder refuses, for as long as it decodes.

    Each stand-in begins with a `mark` (`[` and digits) that the body does not hold, so it is found
    again in the body without a doubt; not in a decoded string, in which `[\\u0031` may have become
    a mark. A stand-in is an array with a number in it, which can neither join with its neighbours
    (`-NaN` and `NaN1` stay errors) nor end a string that it lies in.
    """

    mark: bytes
    originals: tuple[bytes, ...]
    """What is replaced, the rarest first: the stand-ins of the others make the body long. Restored
    in the other direction."""
    passes_pairs: bool
    """Whether pairs of backslashes must be passed over: in `\\\\ud800` there is no escape."""

    @classmethod
    def absent_from(cls, body: bytes) -> "StandIns | None":
        """Stand-ins for what the body holds; None if it holds nothing that the decoder refuses."""
        # A search for one byte costs a tenth of the others.
        first_bytes = [first for first in b"IN\\" if first in body]
        originals = [
            each for each in _TAILS if each.lstrip(b"-")[0] in first_bytes and each in body
        ]
        if not originals:
            return None
        passes_pairs = originals[-1][:1] == b"\\" and rb"\\" in body
        sample = _sample(body)
        # `-Infinity` stays before `Infinity`, which is counted with it.
        originals.sort(key=sample.count)
        return cls(_mark_absent_from(body), tuple(originals), passes_pairs)

    def hide(self, body: bytes) -> bytes:
        """The body with stand-ins."""
        pairs = [(original, self.mark + _TAILS[original]) for original in self.originals]
        pieces = []
        start = 0
        while start < len(body):
            end = end_of_piece(body, start)
            piece = body[start:end]
            if self.passes_pairs:
                # From left to right, so that a backslash which is left begins an escape.
                piece = piece.replace(rb"\\", _PAIR)
            for original, stand_in in pairs:
                piece = piece.replace(original, stand_in)
            pieces.append(piece.translate(_TO_BACKSLASH) if self.passes_pairs else piece)
            start = end
            time.sleep(0)  # other greenlets get a turn
        return b"".join(pieces)

    def restore(self, text: bytes) -> bytes:
        """What `hide` was given, or the part of it that `text` is."""
        if self.mark not in text:
            return text
        pairs = [(self.mark + _TAILS[original], original) for original in reversed(self.originals)]
        longest = max(len(stand_in) for stand_in, _ in pairs)
        pieces = []
        start = 0
        while start < len(text):
            end = start + _AT_ONCE
            # Stand-ins have no bracket but their first, so a cut before one cuts none in two.
            cut = text.rfind(b"[", max(start + 1, end - longest), end)
            end = end if cut < 0 else cut
            piece = text[start:end]
            for stand_in, original in pairs:
                piece = piece.replace(stand_in, original)
            pieces.append(piece)
            start = end
            time.sleep(0)
        return b"".join(pieces)

    def holds(self, string: str) -> bool:
        """Whether a decoded string may hold stand-ins."""
        return self.mark.decode() in string

    def strings(self, texts: Iterable[bytes]) -> list[str]:
        """The JSON texts of strings, which may hold stand-ins, decoded as they were sent. Half a
        surrogate pair stays one.
        """
        strings: list[str] = json.loads(b"[%b]" % self.restore(b",".join(texts)))
        return strings


def end_of_piece(body: bytes, start: int) -> int:
    """Find where a piece ends that begins at `start`. It cuts no original and no pair of
    backslashes in two.
    """
    end = start + _AT_ONCE
    found = _BORDER.search(body, end, end + 2 * _NEAR)
    if found:
        return found.start()
    # No word begins so near. Only the last backslash of one run may begin an escape.
    end = min(end + _NEAR, len(body))
    if end == len(body):
        return end
    piece = body[start:end].removesuffix(b"u")
    run = len(piece) - len(piece.rstrip(b"\\"))
    return start + len(piece) - 1 if run % 2 else end


def _sample(body: bytes) -> bytes:
    """Some of a body. From random places, so that no sender can hide what is frequent."""
    last = max(1, len(body) - _SAMPLE)
    begins = [random.randrange(last) for _ in range(_SAMPLES)]  # noqa: S311 - nothing is secret
    return b"".join([body[begin : begin + _SAMPLE] for begin in begins])


def _mark_absent_from(body: bytes) -> bytes:
    for digits in chain(_SHORTER_DIGITS, repeat(_MOST_DIGITS)):
        mark = b"[%d" % random.randrange(10 ** (digits - 1), 10**digits)  # noqa: S311 - no secret
        if mark not in body:
            break
    return mark


class NotJsonError(ValueError):
    """A body that Python would not take either."""

    def __init__(self, error: Exception, strict: bytes, byte: int | None) -> None:
        """`byte` is where the error stands in what was sent; None if that is not known."""
        problem = _POSITION.sub("", str(error))
        problem = "it ends too early" if problem == _TRUNCATED else problem
        super().__init__(problem if byte is None else f"{problem} (byte {byte})")
        self.strict = strict
        """The body as the decoder got it."""


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Content]):
    """What a body holds."""

    content: Content
    strict: bytes
    """The body as the decoder took it."""
    stand_ins: StandIns | None = None
    """What `content` and `strict` hold in place of what was sent."""


def decode(decoder: Callable[[bytes], Content], body: bytes) -> Decoded[Content]:
    """What a strict decoder makes of a body that is JSON for Python.

    Raises:
        NotJsonError: the body is not JSON.
        UnicodeDecodeError: it is not text of the encoding that its first bytes tell.
        msgspec.ValidationError, RecursionError: the decoder does.
    """
    try:
        _check_utf8(body)
        return Decoded(decoder(body), body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, ValueError) as error:
        refused: Exception = error
    text = _to_utf8(body)
    stand_ins = StandIns.absent_from(text)
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
    """The byte at which the decoder found an error."""
    found = _POSITION.search(str(error))
    return int(found[1]) if found else None


def _check_utf8(body: bytes) -> None:
    """Raise UnicodeDecodeError unless the body is UTF-8: msgspec doesn't look at all of it."""
    if body.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _SLICE):
        decoder.decode(body[start : start + _SLICE])
    decoder.decode(b"", final=True)


def _to_utf8(body: bytes) -> bytes:
    """The body in UTF-8 without a byte order mark; the same object when it is so already.

    Raises:
        UnicodeDecodeError: the body is not in the encoding that its first bytes tell.
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
        time.sleep(0)
        pieces.append(decoder.decode(body[start : start + _SLICE]).encode())
    decoder.decode(b"", final=True)
    return b"".join(pieces)
