"""The certificate is valid for this machine, and its key is private."""

import datetime as dt
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from iot_tools.local import certificate
from iot_tools.local.certificate import ensure_certificate
from iot_tools.local.ports import ANY_ADDRESS


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "certificate.pem", tmp_path / "key.pem"


def test_a_certificate_is_made_once_with_a_private_key(pair: tuple[Path, Path]) -> None:
    assert ensure_certificate(*pair)
    content = [path.read_bytes() for path in pair]
    assert not ensure_certificate(*pair)
    assert [path.read_bytes() for path in pair] == content
    assert pair[1].stat().st_mode & 0o777 == 0o600


def test_a_damaged_or_incomplete_pair_is_replaced(pair: tuple[Path, Path]) -> None:
    ensure_certificate(*pair)
    pair[0].write_text("nonsense", encoding="utf-8")
    assert ensure_certificate(*pair)
    pair[1].unlink()
    assert ensure_certificate(*pair)


def test_a_certificate_is_replaced_before_it_expires(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate, "_LIFETIME", dt.timedelta(days=29))
    ensure_certificate(*pair)
    assert ensure_certificate(*pair)


def names_of(certificate: Path) -> tuple[set[str], set[str]]:
    """Return the host names and the addresses for which a certificate is valid."""
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        set(names.get_values_for_type(x509.DNSName)),
        set(map(str, names.get_values_for_type(x509.IPAddress))),
    )


def test_a_certificate_names_this_machine(pair: tuple[Path, Path]) -> None:
    ensure_certificate(*pair)
    hosts, addresses = {"localhost", socket.gethostname()}, {"127.0.0.1", "::1"}
    assert names_of(pair[0]) == (hosts, addresses)
    for host in (*ANY_ADDRESS, "localhost", "::1"):
        assert not ensure_certificate(*pair, host)
    assert ensure_certificate(*pair, "192.0.2.7")
    assert names_of(pair[0]) == (hosts, addresses | {"192.0.2.7"})
    assert not ensure_certificate(*pair, "192.0.2.7")
    assert ensure_certificate(*pair, "sensors.example")
    assert names_of(pair[0]) == (hosts | {"sensors.example"}, addresses)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_strict_client_accepts_the_certificate(pair: tuple[Path, Path], host: str) -> None:
    ensure_certificate(*pair)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(*pair)
    theirs = ssl.create_default_context(cafile=str(pair[0]))
    theirs.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    server_side, client_side = socket.socketpair()
    server = threading.Thread(target=_answer, args=(ours, server_side))
    server.start()
    with theirs.wrap_socket(client_side, server_hostname=host) as connection:
        assert connection.recv(5) == b"hello"
    server.join()


def _answer(context: ssl.SSLContext, plain: socket.socket) -> None:
    with context.wrap_socket(plain, server_side=True) as connection:
        connection.sendall(b"hello")
