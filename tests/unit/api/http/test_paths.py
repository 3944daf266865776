"""Paths: double slashes, and the prefix that proxies take off."""

import pytest

from iot_api.http.paths import forwarded_prefix, single_slashes


def prefix(header: str | None, proxies: int = 1) -> str:
    return forwarded_prefix({} if header is None else {"HTTP_X_FORWARDED_PREFIX": header}, proxies)


@pytest.mark.parametrize(
    ("header", "expected"),
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
def test_prefixes_from_a_trusted_proxy(header: str | None, expected: str) -> None:
    assert prefix(header) == expected
    assert prefix(header, 0) == ""


def test_each_trusted_proxy_adds_a_prefix() -> None:
    assert prefix("/forged, /outer, /inner", 1) == "/inner"
    assert prefix("/forged, /outer,/inner", 2) == "/outer/inner"
    assert prefix("/inner", 2) == "/inner"
    assert prefix("/outer, /", 2) == "/outer"


@pytest.mark.parametrize(
    "header",
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
def test_a_malformed_prefix_is_ignored(header: str) -> None:
    assert prefix(header) == ""


@pytest.mark.parametrize("path", ["/api/iot", "//api/iot", "/api//iot", "///api////iot"])
def test_a_run_of_slashes_is_one(path: str) -> None:
    assert single_slashes(path) == "/api/iot"
