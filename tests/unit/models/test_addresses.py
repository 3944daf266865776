"""Listen addresses: an address that gunicorn would misread is refused."""

import re

import pytest

from iot_models.addresses import parse_bind, parse_metrics_address
from iot_models.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("127.0.0.1:5000", ("127.0.0.1", 5000)),
        (":5000", ("", 5000)),
        ("sensors.example.org:80", ("sensors.example.org", 80)),
        ("[::]:5000", ("::", 5000)),
        ("[2001:db8::6]:65535", ("2001:db8::6", 65535)),
        ("[fe80::1%eth0]:5000", ("fe80::1%eth0", 5000)),
        ("tcp://127.0.0.1:5000", ("127.0.0.1", 5000)),
        ("127.0.0.1:5000, [::1]:5000", ("127.0.0.1", 5000)),
        ("unix:/run/iot/api.sock", None),
        ("fd://3", None),
    ],
)
def test_listen_addresses_are_parsed(text: str, found: tuple[str, int] | None) -> None:
    assert parse_bind(text) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("127.0.0.1", "'127.0.0.1' is not an address and a port, such as 0.0.0.0:5000"),
        ("5000", "is not an address and a port"),
        ("", "is not an address and a port"),
        ("[::]", "is not an address and a port"),
        ("127.0.0.1:5000,[::1]", "'[::1]' is not an address and a port"),
        ("http://0.0.0.0:5000", "is not an address and a port"),
        ("0.0.0.0:5000/api", "the port is not a number from 1 to 65535"),
        ("::", "write an IPv6 address in brackets"),
        ("::1:5000", "write an IPv6 address in brackets: [::]:5000"),
        ("0.0.0.0:", "the port is not a number from 1 to 65535"),
        ("0.0.0.0:http", "the port is not a number from 1 to 65535"),
        ("0.0.0.0:0", "the port is not a number from 1 to 65535"),
        ("[::]:65536", "the port is not a number from 1 to 65535"),
        ("0.0.0.0:99999999999999999999", "the port is not a number from 1 to 65535"),
        ("a..b:5000", "'a..b' is not a valid host name"),
    ],
)
def test_malformed_addresses_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_bind(text)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("text", ["127.0.0.1", "::", "::1", "localhost"])
def test_metrics_addresses_are_accepted(text: str) -> None:
    assert parse_metrics_address(text) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[::]", "write an IPv6 address without brackets"),
        ("0.0.0.0:9100", "has a port"),
        ("[::]:9100", "write an IPv6 address without brackets"),
        ("ü..b", "'ü..b' is not a valid host name"),
        ("ü" * 70, "is not a valid host name"),
        ("\udcff", "is not a valid host name"),
    ],
)
def test_invalid_metrics_addresses_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        parse_metrics_address(text)
