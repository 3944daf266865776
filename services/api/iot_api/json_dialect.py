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
from collections.abc import Callable
from dataclasses import dataclass
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
_DIGITS = (1, 6, 9)
"""Digits of a mark: few, so that a body grows little; more, if a body holds all short marks."""
_ESCAPED_BRACKETS = (rb"\u005b", rb"\u005B")
"""A string that holds them may hold a mark once it is decoded: no mark of one digit then."""


_BACKSLASHES = rb"\\"
_TAILS = {
    b"NaN": b"]",
    b"Infinity": b" ]",
    b"-Infinity": b"  ]",
    _BACKSLASHES: b"b]",
    # The decoder goes on to check the digits: \ud8ff becomes \u08ff, which is a character.
    rb"\ud": rb"u]\u0",
    rb"\uD": rb"U]\u0",
}
"""How the stand-ins end."""


@dataclass(frozen=True, slots=True)
class StandIns:
    """Strict JSON that takes the place of what the decoder refuses, for as long as it decodes.

    Each stand-in begins with a `mark` (`[` and digits) that the body does not hold, so it is found
    again without a doubt. A stand-in is an array with a number in it, which can neither join with
    its neighbours (`-NaN` and `NaN1` stay errors) nor end a string that it lies in.
    """

    mark: bytes
    originals: tuple[bytes, ...]
    """What is replaced, in this order."""

    @classmethod
    def absent_from(cls, body: bytes) -> "StandIns | None":
        """Stand-ins for what the body holds; None if it holds nothing that the decoder refuses."""
        # A search for one byte costs a tenth of the others.
        escapes = b"\\" in body
        originals: tuple[bytes, ...] = ()
        if escapes and (rb"\ud" in body or rb"\uD" in body):
            # Pairs of backslashes come first, so that one which is left begins an escape.
            originals = (_BACKSLASHES, rb"\ud", rb"\uD")
        if b"I" in body and b"Infinity" in body:
            originals += (b"-Infinity", b"Infinity")
        if b"N" in body and b"NaN" in body:
            originals += (b"NaN",)
        if not originals:
            return None
        is_escaped = escapes and any(each in body for each in _ESCAPED_BRACKETS)
        for digits in _DIGITS[1:] if is_escaped else _DIGITS:
            mark = b"[%d" % random.randrange(10 ** (digits - 1), 10**digits)  # noqa: S311 - no secret
            if mark not in body:
                break
        return cls(mark, originals)

    def hide(self, body: bytes) -> bytes:
        """The body with stand-ins."""
        pairs = [(original, self.mark + _TAILS[original]) for original in self.originals]
        pieces = []
        start = 0
        while start < len(body):
            # No original has a comma, so a cut before one cuts none in two.
            cut = body.find(b",", start + _AT_ONCE)
            end = len(body) if cut < 0 else cut
            piece = body[start:end]
            for original, stand_in in pairs:
                piece = piece.replace(original, stand_in)
            pieces.append(piece)
            start = end
            time.sleep(0)  # other greenlets get a turn
        return b"".join(pieces)

    def restore(self, text: bytes) -> bytes:
        """What `hide` was given, or the part of it that `text` is."""
        if self.mark not in text:
            return text
        pairs = [(self.mark + _TAILS[original], original) for original in self.originals]
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
        """Whether a decoded string holds stand-ins."""
        return self.mark.decode() in string

    def restore_string(self, string: str) -> str:
        """A decoded string as it was sent. Half a surrogate pair stays one."""
        mark = re.escape(self.mark.decode())
        string = re.sub(
            rf"{mark}[uU]\]([\0-\u0fff])",
            lambda match: chr(0xD000 + ord(match[1])),
            string,
        )
        string = string.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        for original in self.originals:
            plain = b"\\" if original == _BACKSLASHES else original
            stand_in = self.mark + _TAILS[original]
            string = string.replace(stand_in.decode(), plain.decode())
        return string

    def longest(self, size: int) -> int:
        """Most characters of a decoded string that is restored to `size` bytes of UTF-8."""
        return size * (len(self.mark) + 3)


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
