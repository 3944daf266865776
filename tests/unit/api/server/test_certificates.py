"""A changed certificate is loaded if it and its key are a valid pair; else the loaded one stays."""

import datetime as dt
import logging
import socket
import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from gunicorn.config import Config

from iot_api.server.certificates import CHECK_SECONDS, ServedCertificate
from iot_api.server.handshake import shake_hands
from iot_api.server.revocations import Revocations, RevokedCertificates, identity_of
from iot_api.server.startup_errors import check_client_authorities, check_revocation_lists
from iot_models.errors import SettingsError
from support.certificates import Authority, MountedSecret, Pair, new_pair
from support.samples import sample_value


class Watched:
    """A mounted certificate, and what a worker serves of it."""

    def __init__(
        self, folder: Path, pair: Pair, authorities: bytes = b"", lists: bytes = b""
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.secret = MountedSecret(folder / "tls", pair)
        self.authorities = folder / "clients.crt"
        config = Config()
        if authorities:
            self.authorities.write_bytes(authorities)
            config.set("ca_certs", str(self.authorities))
            config.set("cert_reqs", ssl.CERT_OPTIONAL)
        config.set("certfile", str(self.secret.certificate))
        config.set("keyfile", str(self.secret.key))
        self.lists = folder / "revoked.pem"
        self.lists.write_bytes(lists)
        self.revocations = Revocations(self.lists) if lists else None
        self.served = ServedCertificate(config, self.revocations)
        self._now = 1000.0

    def check(self) -> None:
        """Let a check become due, and make it."""
        self._now += CHECK_SECONDS
        self.served.refresh(self._now)

    def check_early(self) -> None:
        """Refresh before the next check is due."""
        self.served.refresh(self._now + CHECK_SECONDS / 2)

    @property
    def serial(self) -> int:
        """The serial number that a handshake shows."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        shown = self._shown(context, None)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def accepts(self, client: Pair, folder: Path) -> bool:
        """Whether a handshake with a client certificate succeeds."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        file = folder / "client.pem"
        file.write_bytes(client.certificate + client.key)
        context.load_cert_chain(file)
        try:
            self._shown(context, client)
        except ssl.SSLCertVerificationError:
            return False
        return True

    def _shown(self, context: ssl.SSLContext, sent: Pair | None) -> bytes | None:
        """Return the certificate that the server shows in a handshake. It must see the client's."""
        mine, theirs = socket.socketpair()
        with theirs, ThreadPoolExecutor(1) as pool:
            options = {"server_side": True, "do_handshake_on_connect": True}
            answering = pool.submit(self.served.wrap_socket, theirs, **options)
            with context.wrap_socket(mine) as client:
                shown = client.getpeercert(binary_form=True)
                with answering.result() as served:
                    seen = served.getpeercert(binary_form=True)
        expected = None if sent is None else ssl.PEM_cert_to_DER_cert(sent.certificate.decode())
        assert seen == expected
        return shown


def expiry() -> float | None:
    return sample_value("iot_tls_certificate_not_after_timestamp_seconds")


@pytest.fixture
def old() -> Pair:
    """The pair that is served first."""
    return new_pair(ends=30)


@pytest.fixture
def watched(tmp_path: Path, old: Pair) -> Watched:
    """That pair, loaded."""
    made = Watched(tmp_path, old)
    made.check()
    assert made.serial == old.serial
    return made


def test_a_renewed_pair_is_served(watched: Watched, old: Pair) -> None:
    assert expiry() == old.not_after.timestamp()
    new = new_pair(ends=90)
    watched.secret.replace(new.certificate, new.key)
    watched.check_early()
    assert watched.serial == old.serial
    watched.check()
    assert watched.serial == new.serial
    assert expiry() == new.not_after.timestamp()


def test_a_pair_that_is_written_in_place_is_served(watched: Watched, old: Pair) -> None:
    """First one file, then the other: between the two, the old pair is served."""
    new = new_pair()
    watched.secret.certificate.write_bytes(new.certificate)
    watched.check()
    assert watched.serial == old.serial
    watched.secret.key.write_bytes(new.key)
    watched.check()
    assert watched.serial == new.serial


def damaged() -> dict[str, tuple[bytes, bytes]]:
    new, other = new_pair(), new_pair()
    expired, early = new_pair(begins=-9, ends=-1), new_pair(begins=1)
    return {
        "the key of another certificate": (new.certificate, other.key),
        "half a certificate": (new.certificate[: len(new.certificate) // 2], new.key),
        "half a chain": (new.certificate + other.certificate[:200], new.key),
        "half a key": (new.certificate, new.key[:100]),
        "an empty certificate": (b"", new.key),
        "an empty key": (new.certificate, b""),
        "an expired certificate": (expired.certificate, expired.key),
        "a certificate of tomorrow": (early.certificate, early.key),
    }


@pytest.mark.parametrize("name", damaged())
def test_an_invalid_pair_is_not_served(
    watched: Watched, old: Pair, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    watched.secret.replace(*damaged()[name])
    for _ in range(3):
        watched.check()
    assert watched.serial == old.serial
    assert expiry() == old.not_after.timestamp()
    (line,) = caplog.messages
    assert "the TLS certificate was not loaded: IOT_TLS_CERTIFICATE" in line
    assert f"still serves the certificate that expires at {old.not_after:%Y-%m-%d}" in line
    new = new_pair()
    watched.secret.replace(new.certificate, new.key)
    watched.check()
    assert watched.serial == new.serial


def test_missing_files_are_reported_once(
    watched: Watched, old: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    watched.secret.key.unlink()
    for _ in range(3):
        watched.check()
    assert watched.serial == old.serial
    assert len(caplog.messages) == 1
    assert str(watched.secret.key) in caplog.messages[0]


def test_an_open_connection_keeps_its_certificate(watched: Watched) -> None:
    """Loading makes a new context: the context of open connections does not change."""
    mine, theirs = socket.socketpair()
    wrapped = watched.served.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)
    before = wrapped.context
    new = new_pair()
    watched.secret.replace(new.certificate, new.key)
    watched.check()
    assert wrapped.context is before
    mine.close()
    wrapped.close()


def test_an_unchanged_pair_is_not_loaded_again(
    watched: Watched, old: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    watched.secret.replace(old.certificate, old.key)
    watched.check()
    assert not caplog.messages


def test_a_worker_that_starts_with_an_invalid_pair_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = new_pair()
    watched = Watched(tmp_path, pair)
    watched.secret.replace(pair.certificate, b"half a key")
    watched.check()
    assert not watched.served.is_loaded
    assert "accepts no connection until the files are valid" in caplog.messages[0]
    watched.secret.replace(pair.certificate, pair.key)
    watched.check()
    assert watched.serial == pair.serial


def test_the_first_certificate_may_be_expired(tmp_path: Path) -> None:
    """There is no better one, and a client may ignore the time."""
    pair = new_pair(begins=-9, ends=-1)
    watched = Watched(tmp_path, pair)
    watched.check()
    assert watched.serial == pair.serial


def test_authorities_that_are_replaced_verify_new_connections(tmp_path: Path) -> None:
    first, second = Authority(), Authority()
    watched = Watched(tmp_path, new_pair(), first.certificate)
    watched.check()
    old, new = first.issue("a"), second.issue("a")
    assert watched.accepts(old, tmp_path)
    assert not watched.accepts(new, tmp_path)
    watched.authorities.write_bytes(first.certificate + second.certificate)
    watched.check()
    assert watched.accepts(old, tmp_path)
    assert watched.accepts(new, tmp_path)
    watched.authorities.write_bytes(second.certificate)
    watched.check()
    assert not watched.accepts(old, tmp_path)
    assert watched.accepts(new, tmp_path)


def test_an_intermediate_authority_needs_its_root_in_the_file(tmp_path: Path) -> None:
    root = Authority()
    intermediate = Authority(issuer=root)
    device = intermediate.issue("a")
    watched = Watched(tmp_path, new_pair(), intermediate.certificate + root.certificate)
    watched.check()
    assert watched.accepts(device, tmp_path)
    # It needs none if OpenSSL's trust settings are added: `openssl x509 -addtrust clientAuth`.
    content = ssl.PEM_cert_to_DER_cert(intermediate.certificate.decode())
    content += bytes.fromhex("300c300a06082b06010505070302")
    pem = ssl.DER_cert_to_PEM_cert(content).replace("CERTIFICATE", "TRUSTED CERTIFICATE")
    trusted = Watched(tmp_path / "trusted", new_pair(), pem.encode())
    trusted.check()
    assert trusted.accepts(device, tmp_path)


def invalid_authorities() -> dict[str, tuple[bytes, str]]:
    whole = Authority().certificate
    leaf = Authority().issue("a").certificate
    intermediate = Authority(issuer=Authority()).certificate
    return {
        "empty": (b"", "IOT_TLS_CLIENT_CA_FILE can't be used"),
        "half": (whole[: len(whole) // 2], "IOT_TLS_CLIENT_CA_FILE can't be used"),
        "one and a half": (whole + whole[:200], "IOT_TLS_CLIENT_CA_FILE can't be used"),
        "a device's": (leaf, "IOT_TLS_CLIENT_CA_FILE has no certificate of an authority"),
        "no root": (intermediate, "IOT_TLS_CLIENT_CA_FILE has intermediate authorities only"),
    }


@pytest.mark.parametrize("name", invalid_authorities())
def test_invalid_authorities_are_not_used(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the API does not start with them."""
    content, message = invalid_authorities()[name]
    authority = Authority()
    watched = Watched(tmp_path, new_pair(), authority.certificate)
    watched.check()
    watched.authorities.write_bytes(content)
    for _ in range(3):
        watched.check()
    assert watched.accepts(authority.issue("a"), tmp_path)
    (line,) = caplog.messages
    assert message in line
    with pytest.raises(SettingsError, match=message):
        check_client_authorities(str(watched.authorities))


def test_a_revoked_certificate_is_refused_when_the_list_is_replaced(tmp_path: Path) -> None:
    """The certificates of another authority with the same serial number are not revoked."""
    first, second = Authority(), Authority()
    stolen, same_serial = first.issue("a"), second.issue("a")
    watched = Watched(
        tmp_path,
        new_pair(),
        first.certificate + second.certificate,
        first.revoke() + second.revoke(),
    )
    watched.check()
    assert watched.accepts(stolen, tmp_path)
    list_of_first = first.revoke(stolen, serials=(same_serial.serial,))
    watched.lists.write_bytes(list_of_first + second.revoke())
    watched.check()
    assert not watched.accepts(stolen, tmp_path)
    assert watched.accepts(same_serial, tmp_path)
    assert watched.revocations is not None
    for pair, revoked in ((stolen, True), (same_serial, False)):
        der = ssl.PEM_cert_to_DER_cert(pair.certificate.decode())
        assert watched.revocations.contains(identity_of(der)) is revoked


def test_without_a_valid_list_no_certificate_of_an_authority_is_accepted(tmp_path: Path) -> None:
    listed, unlisted = Authority(), Authority()
    watched = Watched(
        tmp_path, new_pair(), listed.certificate + unlisted.certificate, listed.revoke()
    )
    watched.check()
    assert watched.accepts(listed.issue("a"), tmp_path)
    assert not watched.accepts(unlisted.issue("a"), tmp_path)
    expired = Watched(
        tmp_path / "expired", new_pair(), listed.certificate, listed.revoke(begins=-9, ends=-1)
    )
    expired.check()
    assert not expired.accepts(listed.issue("a"), tmp_path)
    found = sample_value("iot_tls_client_crl_next_update_timestamp_seconds")
    assert found is not None
    assert found < dt.datetime.now(dt.UTC).timestamp()


def invalid_lists() -> dict[str, tuple[bytes, str]]:
    authority = Authority("devices")
    whole = authority.revoke()
    name = "IOT_TLS_CLIENT_CRL_FILE: a list of CN=devices"
    return {
        "empty": (b"", "IOT_TLS_CLIENT_CRL_FILE can't be used"),
        "half": (whole[: len(whole) // 2], "IOT_TLS_CLIENT_CRL_FILE can't be used"),
        "a certificate": (authority.certificate, "IOT_TLS_CLIENT_CRL_FILE has a certificate: it"),
        "a list and a certificate": (
            whole + Authority("others").certificate,
            "IOT_TLS_CLIENT_CRL_FILE has a certificate: it",
        ),
        "expired": (authority.revoke(begins=-9, ends=-1), f"{name} expired at 20"),
        "not yet valid": (authority.revoke(begins=1, ends=9), f"{name} is not valid before 20"),
        "of another key": (whole, f"{name} is not signed with the key that CN=devices has"),
    }


STARTS_WITH = ("expired", "not yet valid", "of another key")
"""The API starts with these lists, and refuses the certificates of the authority."""


@pytest.mark.parametrize("name", invalid_lists())
def test_invalid_lists_are_not_used(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, message = invalid_lists()[name]
    authority = Authority("devices")
    revoked = authority.issue("a")
    watched = Watched(tmp_path, new_pair(), authority.certificate, authority.revoke(revoked))
    watched.check()
    watched.lists.write_bytes(content)
    for _ in range(3):
        watched.check()
    assert watched.accepts(authority.issue("a"), tmp_path)
    assert not watched.accepts(revoked, tmp_path)
    (line,) = caplog.messages
    assert message in line
    if name not in STARTS_WITH:
        with pytest.raises(SettingsError, match=message):
            check_revocation_lists(str(watched.lists))


def test_an_expired_file_in_use_does_not_keep_the_others_from_being_loaded(
    tmp_path: Path,
) -> None:
    authority, retired = Authority("devices"), Authority()
    list_of_retired = retired.revoke(begins=-9, ends=-1)
    watched = Watched(
        tmp_path,
        new_pair(begins=-9, ends=-1),
        authority.certificate + retired.certificate,
        authority.revoke() + list_of_retired,
    )
    watched.check()
    stolen = authority.issue("a")
    assert watched.accepts(stolen, tmp_path)
    watched.lists.write_bytes(authority.revoke(stolen) + list_of_retired)
    watched.check()
    assert not watched.accepts(stolen, tmp_path)
    new = new_pair()
    watched.secret.replace(new.certificate, new.key)
    watched.check()
    assert watched.serial == new.serial


def test_authorities_that_have_not_signed_the_list_in_use_are_not_used(tmp_path: Path) -> None:
    authority = Authority("devices")
    watched = Watched(tmp_path, new_pair(), authority.certificate, authority.revoke())
    watched.check()
    watched.authorities.write_bytes(Authority("devices").certificate)
    watched.check()
    assert watched.accepts(authority.issue("a"), tmp_path)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_session_is_resumed_after_the_list_expired(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """OpenSSL itself verifies nothing when a session is resumed."""
    authority = Authority()
    device = authority.issue("a")
    watched = Watched(tmp_path, new_pair(), authority.certificate, authority.revoke())
    watched.check()
    assert watched.revocations is not None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    (tmp_path / "device.pem").write_bytes(device.certificate + device.key)
    context.load_cert_chain(tmp_path / "device.pem")

    def serve(theirs: socket.socket) -> bool:
        options = {"server_side": True, "do_handshake_on_connect": False}
        with watched.served.wrap_socket(theirs, **options) as served:
            assert shake_hands(served, "a device", watched.revocations) is not None
            served.sendall(b"!")
            return bool(served.session_reused)

    def connect(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        mine, theirs = socket.socketpair()
        with ThreadPoolExecutor(1) as pool:
            answering = pool.submit(serve, theirs)
            with context.wrap_socket(mine, session=session) as client:
                client.recv(1)  # TLS 1.3 sends the session after the handshake
                return answering.result(), client.session

    resumed, session = connect(None)
    assert not resumed
    resumed, session = connect(session)
    assert resumed
    issuer, _ = identity_of(ssl.PEM_cert_to_DER_cert(device.certificate.decode()))
    past = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=1)
    watched.revocations.use(RevokedCertificates(frozenset(), {issuer: past}))
    with pytest.raises(ssl.SSLError, match="the revocation list has expired"):
        connect(session)
