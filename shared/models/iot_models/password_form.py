"""The normal form of a password: one form for all ways to type the same text in Unicode."""

import unicodedata

MAX_BYTES = 4096
"""A longer password is not normalized: normalization takes quadratic time, seconds for 64 KiB."""


def normal_form(password: bytes) -> bytes:
    """Return the password in the form OpaqueString of RFC 8265.

    Every Unicode space becomes an ASCII space, then the text is normalized to NFC. No password is
    refused: characters that the RFC forbids are kept, and a password that is not UTF-8 or longer
    than `MAX_BYTES` is returned unchanged.
    """
    if password.isascii() or len(password) > MAX_BYTES:
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    spaced = "".join([" " if unicodedata.category(char) == "Zs" else char for char in text])
    return unicodedata.normalize("NFC", spaced).encode()
