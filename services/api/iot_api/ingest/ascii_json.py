"""JSON text in ASCII: every character above 0x7e becomes `\\uXXXX`, as the old server stored it."""

import json
import random
import string
import time
from collections.abc import Iterator
from itertools import islice

from iot_models.errors import TooLargeError

SLICE = 64 * 1024
"""Bytes that are escaped at once. Bounds the memory, and the time until other greenlets run."""

_ESCAPES = {ord("\\"): b"\\\\", ord('"'): b'\\"', 10: b"\\n", 9: b"\\t", 13: b"\\r", 0: b"\\u0000"}
"""What `json.dumps` does to ASCII that must stay. JSON text holds no other control characters, and
byte 0 separates texts. The backslash comes first: every backslash begins an escape then, so a
search for two from left to right never finds halves of two escapes."""
_STAND_INS = bytes(
    ord(each)
    for each in string.printable[:94]
    if ord(each) not in _ESCAPES and each not in "u0123456789abcdef"
)
"""Characters that `json.dumps` leaves alone and that no `\\uXXXX` is made of."""
_SAMPLED = 16
"""One byte in so many is counted."""
_MARKS = bytes(range(0x80, 0x80 + len(_ESCAPES)))
"""Bytes that escaped text never holds."""


def escape_json(text: bytes, *, limit: int, used: int = 0) -> bytes:
    """Escape what is not printable ASCII in JSON text; quotes, backslashes, spaces and byte 0 stay.

    `text` is valid UTF-8. Whatever it holds, no Python code runs per character.

    Raises:
        TooLargeError: the escaped text and the `used` bytes before it exceed `limit` bytes.
    """
    if _is_plain(text):
        return text
    escaped = bytearray()
    for piece in _slices(text):
        escaped += piece if _is_plain(piece) else _escape(piece)
        if used + len(escaped) > limit:
            raise TooLargeError(
                f"a request may hold {limit} bytes of JSON, counting each character that is not "
                "ASCII as the escape \\uXXXX",
                limit=limit,
            )
    return bytes(escaped)


def _is_plain(text: bytes) -> bool:
    return text.isascii() and b"\x7f" not in text


def _slices(text: bytes) -> Iterator[bytes]:
    """Cut text between characters."""
    start = 0
    while start < len(text):
        end = min(start + SLICE, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # a byte that continues a character
            end -= 1
        yield text[start:end]
        start = end


def _escape(piece: bytes) -> bytes:
    """Escape with `json.dumps`, the fastest escaping that Python has (2 ms/MiB).

    Quotes and backslashes, which it would escape too, change places with characters that the piece
    does not hold. Escaping and restoring them takes ten times as long.
    """
    time.sleep(0)  # other greenlets get a turn
    kept = bytes(each for each in _ESCAPES if each in piece)
    stand_ins = _rarest(piece, len(kept))
    exchanged = piece.translate(bytes.maketrans(kept + stand_ins, stand_ins + kept))
    escaped = json.dumps(exchanged.decode())[1:-1].encode()
    marks = _MARKS[: len(kept)]
    for each, stand_in, mark in zip(kept, stand_ins, marks, strict=True):
        if stand_in in piece:
            escaped = escaped.replace(_ESCAPES[each], bytes([mark]))
    return escaped.translate(bytes.maketrans(stand_ins + marks, kept + stand_ins))


def _rarest(piece: bytes, number: int) -> bytes:
    """Stand-ins that the piece does not hold or, when it holds nearly all, that it seldom holds."""
    absent = bytes(islice((each for each in _STAND_INS if each not in piece), number))
    if len(absent) == number:
        return absent
    # Counting 76 characters in all of the piece would take longer than all the rest. A random place
    # to begin, so that no sender can hide a frequent character from the sample.
    sample = piece[random.randrange(_SAMPLED) :: _SAMPLED]  # noqa: S311 - nothing is kept secret
    return bytes(sorted(_STAND_INS, key=sample.count)[:number])
