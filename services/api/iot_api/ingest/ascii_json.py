"""JSON text in ASCII: each character above 0x7e becomes `\\uXXXX`, as the old server stored it."""

import json
import random
import string
import time
from collections.abc import Iterator
from itertools import islice

from iot_models.errors import TooLargeError

SLICE = 64 * 1024
"""Maximum bytes that one call of `_escape` escapes. The limit bounds the memory of the call, and
the time until other greenlets run."""

_ESCAPES = {ord("\\"): b"\\\\", ord('"'): b'\\"', 10: b"\\n", 9: b"\\t", 13: b"\\r", 0: b"\\u0000"}
"""Escapes of `json.dumps` that must be undone, in this order. The texts contain no control
characters but these: JSON allows line feeds, tabs and carriage returns between its tokens, and byte
0 separates the texts.

The escaped backslash (`\\\\`) comes first. `replace` searches from left to right, so it finds each
escaped backslash as a whole, and each backslash that remains begins another escape. If the line
feed (`\\n`) came first, `replace` would find it in `\\\\n`: an escaped backslash, then an n."""
_STAND_INS = bytes(
    ord(character)
    for character in string.printable[:94]
    if ord(character) not in _ESCAPES and character not in "u0123456789abcdef"
)
"""The characters that may be stand-ins in `_escape`: `json.dumps` does not escape them, and they do
not occur in `\\uXXXX`."""
_SAMPLE_STEP = 16
"""`_rarest` counts characters in every 16th byte of a piece, not in the whole piece."""
_SPARE_BYTES = bytes(range(0x80, 0x80 + len(_ESCAPES)))
"""Bytes that do not occur in escaped text. Before `_escape` swaps the stand-ins back, it marks the
piece's own characters that equal a stand-in with these bytes."""


def escape_json(text: bytes, *, limit: int, used: int = 0) -> bytes:
    """Escape each character above 0x7e in JSON text.

    `text` must be valid UTF-8. `used` is the escaped size of the request's earlier texts.

    Raises:
        TooLargeError: the escaped texts of the request together exceed `limit` bytes.
    """
    escaped = bytearray()
    for piece in _slices(text):
        is_plain = piece.isascii() and b"\x7f" not in piece
        escaped += piece if is_plain else _escape(piece)
        if used + len(escaped) > limit:
            raise TooLargeError(
                f"the freeform texts of a request may have at most {limit} bytes together, with "
                "each non-ASCII character escaped as \\uXXXX",
                limit=limit,
            )
    return bytes(escaped)


def _slices(text: bytes) -> Iterator[bytes]:
    """Yield slices of UTF-8 text, of at most `SLICE` bytes each. No character is split."""
    start = 0
    while start < len(text):
        end = min(start + SLICE, len(text))
        while end < len(text) and text[end] & 0xC0 == 0x80:  # a byte that continues a character
            end -= 1
        yield text[start:end]
        start = end


def _escape(piece: bytes) -> bytes:
    """Escape with `json.dumps`, the fastest escaping that Python has (2 ms/MiB).

    Quotes, backslashes and control characters must stay as they are. So they are swapped with
    stand-ins (`_rarest`) before the call of `json.dumps`, and swapped back after it. Letting
    `json.dumps` escape them and undoing the escapes would take ten times as long.
    """
    time.sleep(0)  # other greenlets get a turn
    kept = bytes(byte for byte in _ESCAPES if byte in piece)
    stand_ins = _rarest(piece, len(kept))
    exchanged = piece.translate(bytes.maketrans(kept + stand_ins, stand_ins + kept))
    escaped = json.dumps(exchanged.decode())[1:-1].encode()
    spares = _SPARE_BYTES[: len(kept)]
    for byte, stand_in, spare in zip(kept, stand_ins, spares, strict=True):
        if stand_in in piece:
            escaped = escaped.replace(_ESCAPES[byte], bytes([spare]))
    return escaped.translate(bytes.maketrans(stand_ins + spares, kept + stand_ins))


def _rarest(piece: bytes, number: int) -> bytes:
    """Return `number` stand-ins for `_escape`: characters that the piece lacks, or else its rarest
    characters.

    The fewer stand-ins the piece itself contains, the less time `_escape` takes. For example, if
    `~` is the stand-in of the quote, `_escape` swaps the two characters, so each `~` of the piece
    becomes a quote. `json.dumps` escapes these quotes, and `_escape` must undo the escapes.
    """
    absent = bytes(islice((byte for byte in _STAND_INS if byte not in piece), number))
    if len(absent) == number:
        return absent
    # Counting 76 characters in the whole piece would take longer than all the rest. The sample
    # begins at a random position, so that a sender can't hide a frequent character from it.
    sample = piece[random.randrange(_SAMPLE_STEP) :: _SAMPLE_STEP]  # noqa: S311 - no secret
    return bytes(sorted(_STAND_INS, key=sample.count)[:number])
