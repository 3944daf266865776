"""The normal form of a password, in which two ways to type the same text are the same."""

import unicodedata

MOST_BYTES = 4096
"""A longer password has no other form: Unicode sorts accents in quadratic time, seconds for 64
KiB."""


def normal_form(password: bytes) -> bytes:
    """The password (UTF-8) as OpaqueString of RFC 8265 prepares it: every space of Unicode is the
    one of ASCII, then NFC. Nothing is refused: what the RFC forbids is kept as it is.
    """
    if password.isascii() or len(password) > MOST_BYTES:
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    spaced = "".join([" " if unicodedata.category(each) == "Zs" else each for each in text])
    return unicodedata.normalize("NFC", spaced).encode()
