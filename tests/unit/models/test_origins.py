"""Origins are compared part by part; the only pattern is one wildcard label."""

import re

import pytest

from iot_models.errors import SettingsError
from iot_models.origins import parse_origins
from iot_models.settings import load

REQUIRED = {"IOT_POSTGRES_URL": "postgresql://db/iot", "IOT_KEYRING_FILE": "/keys/keyring.json"}


@pytest.mark.parametrize(
    ("setting", "origin"),
    [
        ("*", "https://one.example"),
        ("*", "null"),
        ("null", "null"),
        ("https://app.example.org", "https://app.example.org"),
        ("https://app.example.org", "https://app.example.org:443"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80", "http://app.example.org"),
        ("HTTPS://App.Example.ORG", "https://app.example.org"),
        ("https://app.example.org", "HTTPS://APP.EXAMPLE.ORG"),
        ("https://app.example.org:8443", "https://app.example.org:8443"),
        ("https://one.example, https://two.example", "https://two.example"),
        ("https://one.example,", "https://one.example"),
        ("https://*.example.org", "https://app.example.org"),
        ("https://*.example.org", "https://a-b.example.org"),
        ("https://*.example.org:8443", "https://app.example.org:8443"),
        ("https://*.localhost", "https://app.localhost"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[2001:DB8:0::1]", "http://[2001:db8::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://*.bücher.example", "https://shop.xn--bcher-kva.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_allowed_origins(setting: str, origin: str) -> None:
    assert parse_origins(setting).allows(origin)


@pytest.mark.parametrize(
    ("setting", "origin"),
    [
        ("https://*.example.org", "https://xexample.org.evil.test"),
        ("https://*.example.org", "https://example.org"),
        ("https://*.example.org", "https://.example.org"),
        ("https://*.example.org", "https://a.b.example.org"),
        ("https://*.example.org", "https://app.example.org.evil.test"),
        ("https://*.example.org", "https://app.example.org:8443"),
        ("https://*.example.org", "http://app.example.org"),
        ("https://*.example.org", "https://evil.test/.example.org"),
        ("https://*.example.org", "https://evil.test#.example.org"),
        ("https://*.example.org", "https://evil.test\\.example.org"),
        ("https://*.example.org", "https://user@app.example.org"),
        ("https://*.example.org", "https://app.example.org/"),
        ("https://*.example.org", "https://*.example.org"),
        ("https://*.example.org", "null"),
        ("https://app.example.org", "https://app-example.org"),
        ("https://app.example.org", "https://appxexample.org"),
        ("https://app.example.org", "https://app.example.org.evil.test"),
        ("https://app.example.org", "http://app.example.org"),
        ("https://app.example.org", "https://app.example.org:80"),
        ("https://app.example.org", "https://app.example.org, https://app.example.org"),
        ("https://app.example.org", "https://app.example.org\n"),
        ("https://app.example.org", "app.example.org"),
        ("https://app.example.org", f"https://app.example.org{'.' * 10_000}"),
        ("", "https://app.example.org"),
        ("", ""),
        ("", "null"),
        ("null", "https://app.example.org"),
    ],
)
def test_origins_that_are_not_allowed(setting: str, origin: str) -> None:
    assert not parse_origins(setting).allows(origin)


@pytest.mark.parametrize(
    "text",
    [
        "app.example.org",
        "https://",
        "://app.example.org",
        "https:app.example.org",
        "https://app.example.org/",
        "https://app.example.org/path",
        "https://app.example.org?query",
        "https://app.example.org#fragment",
        "https://user@app.example.org",
        "https://app.example.org:",
        "https://app.example.org:x",
        "https://app.example.org:65536",
        "https://app..example.org",
        "https://.example.org",
        "https://app example.org",
        "https://-app.example.org",
        "https://*",
        "https://*:8443",
        "https://*example.org",
        "https://app*.example.org",
        "https://app.*.org",
        "https://*.*.org",
        "https://*.[::1]",
        "*://app.example.org",
        "*.example.org",
        "http://[::1",
        "http://[::g]",
        "http://::1",
        r"https://.*\.example",
        "https://straße.example",
    ],
)
def test_a_malformed_origin_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^IOT_CORS_ORIGINS: ") as caught:
        load({**REQUIRED, "IOT_CORS_ORIGINS": f"https://one.example, {text}"})
    assert re.search(f"{re.escape(repr(text))} is not an origin: ", str(caught.value))
