"""The normal form of passwords."""

import unicodedata

import pytest

from iot_models.password_form import MAX_BYTES, normal_form


@pytest.mark.parametrize(
    ("sent", "normal"),
    [
        ("", ""),
        ("p", "p"),
        ("Schlüssel", "Schlüssel"),
        (unicodedata.normalize("NFD", "Schlüssel"), "Schlüssel"),
        ("\u212b", "\u00c5"),  # the sign of the unit ångström
        ("\u1112\u1161\u11ab", "\ud55c"),  # Hangul by its letters
        ("q\u0323\u0307", "q\u0323\u0307"),
        ("q\u0307\u0323", "q\u0323\u0307"),
        ("a\u00a0b", "a b"),
        ("a\u3000b", "a b"),
        ("\u2003\u00fc", " \u00fc"),
        # NFKC, or a check of letters, would change these.
        ("\uff21", "\uff21"),
        ("ﬁ", "ﬁ"),
        ("ß", "ß"),
        ("Ü", "Ü"),
        ("a\tb\u200b", "a\tb\u200b"),
        ("🔑", "🔑"),
    ],
)
def test_normal_form_of_a_text(sent: str, normal: str) -> None:
    assert normal_form(sent.encode()).decode() == normal
    assert normal_form(normal.encode()).decode() == normal


@pytest.mark.parametrize(
    "sent", [b"\xff", b"u\xcc", "\ud800u\u0308".encode("utf-8", "surrogatepass")]
)
def test_invalid_utf_8_is_not_normalized(sent: bytes) -> None:
    assert normal_form(sent) == sent


def test_a_huge_password_is_not_normalized() -> None:
    """Its normalization would take seconds."""
    longest = "u\u0308".encode() * (MAX_BYTES // 3)
    assert normal_form(longest) == "ü".encode() * (MAX_BYTES // 3)
    assert normal_form(longest + longest) == longest + longest
