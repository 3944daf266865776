"""The client of a request, from the peer address and the headers of proxies."""

import pytest

from iot_api.http.request import PROVEN, client_of, proven_vaults
from iot_api.limits.clients import Client


def client(peer: str, forwarded: str = "", proxies: int = 0, token: str = "") -> Client:
    environ = {"REMOTE_ADDR": peer}
    if forwarded:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded
    return client_of(environ, proxies, token)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:5123", "192.0.2.7"),
        (" 192.0.2.7 ", "192.0.2.7"),
        ('"192.0.2.7:5123"', "192.0.2.7"),
        ("2001:db8::7", "2001:db8::/64"),
        ("2001:DB8:0:0:ffff::7", "2001:db8::/64"),
        ("[2001:db8::7]:5123", "2001:db8::/64"),
        ('"[2001:db8::7]"', "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:5123", "192.0.2.7"),
        ("::FFFF:C000:0207", "192.0.2.7"),
        ("0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7:5123", "192.0.2.7"),
        ("2001:0db8:0000:0000:0000:0000:0000:0007", "2001:db8::/64"),
        ("2001:db8:0:0:0:0:0:7:5123", "2001:db8::/64"),
        ("[fe80::1%25eth0]:5123", "fe80::/64"),
        ("192.0.2.7:5123:1", "unknown"),
        ("192.0.2.07", "unknown"),
        ("unix:", "unknown"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_all_spellings_of_an_address_are_one_client(address: str, name: str) -> None:
    assert client("10.0.0.1", f"198.51.100.1, {address}", proxies=1) == Client(name)
    if address.strip() == address and address:
        assert client(address) == Client(name)


def test_the_first_trusted_proxy_names_the_client() -> None:
    told = "203.0.113.9, 192.0.2.7, 10.0.0.2"
    assert client("10.0.0.1", told, proxies=1).name == "10.0.0.2"
    assert client("10.0.0.1", told, proxies=2).name == "192.0.2.7"
    assert client("10.0.0.1", told, proxies=3).name == "203.0.113.9"
    # A request with too few addresses did not pass all proxies: the peer is the client.
    assert client("10.0.0.1", told, proxies=4) == Client("10.0.0.1")


def test_an_untrusted_proxy_is_recorded_with_the_client() -> None:
    told = client("10.0.0.1", "203.0.113.9, 192.0.2.7")
    assert told == Client("10.0.0.1 for 192.0.2.7", proxy="10.0.0.1")


def test_each_token_is_a_separate_client() -> None:
    assert client("192.0.2.7", token="devices").name == "devices@192.0.2.7"


def test_a_forwarded_header_of_any_length_is_parsed() -> None:
    told = ", ".join(["198.51.100.1"] * 1000)
    assert client("10.0.0.1", f"{told}, 192.0.2.7", proxies=1).name == "192.0.2.7"


@pytest.mark.parametrize("header", ["HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_FOR"])
def test_a_proxy_connection_proves_no_password(header: str) -> None:
    """A proxy sends requests of several clients over one connection."""
    environ = {"REMOTE_ADDR": "10.0.0.1", PROVEN: {b"key"}}
    assert proven_vaults(environ, 0) == {b"key"}
    assert proven_vaults(environ, 1) is None
    assert proven_vaults({**environ, header: "192.0.2.7"}, 0) is None
