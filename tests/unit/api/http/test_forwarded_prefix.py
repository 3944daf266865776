"""The prefix that proxies took off a path."""

import pytest

from iot_api.http.paths import forwarded_prefix


def prefix(told: str | None, proxies: int = 1) -> str:
    return forwarded_prefix({} if told is None else {"HTTP_X_FORWARDED_PREFIX": told}, proxies)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("/sensors", "/sensors"),
        ("/sensors/", "/sensors"),
        (" /sensors ", "/sensors"),
        ("/a/b-c_d.e~f", "/a/b-c_d.e~f"),
        ("/a%20b", "/a%20b"),
        ("/", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_a_prefix_is_told(told: str | None, expected: str) -> None:
    assert prefix(told) == expected
    assert prefix(told, 0) == ""


def test_each_trusted_proxy_adds_one() -> None:
    assert prefix("/forged, /outer, /inner", 1) == "/inner"
    assert prefix("/forged, /outer,/inner", 2) == "/outer/inner"
    assert prefix("/inner", 2) == "/inner"
    assert prefix("/outer, /", 2) == "/outer"


@pytest.mark.parametrize(
    "told",
    [
        "//evil.test",
        "///evil.test",
        "/\\evil.test",
        "https://evil.test",
        "evil",
        "/a//b",
        "/a\r\nSet-Cookie: b",
        "/a\nb",
        "/a b",
        "/a?b",
        "/a#b",
        "/..",
        "/a/../b",
        "/a/%2e%2E/b",
        "/.",
        "/a%2F..",
        "/a%zz",
        "/ä",
        "/" + "a" * 256,
        "/a/, //evil.test",
    ],
)
def test_a_malformed_prefix_is_ignored(told: str) -> None:
    assert prefix(told) == ""
