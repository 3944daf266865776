"""A self-signed certificate, for https on one machine."""

import datetime as dt
import ipaddress
import socket
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from iot_models.text_files import replace_file

from .ports import ANY_ADDRESS

_LIFETIME = dt.timedelta(days=397)
_RENEW_BEFORE = dt.timedelta(days=30)


def ensure_certificate(certificate: Path, key: Path, host: str = "") -> bool:
    """Create a self-signed certificate and its key (mode 0600) unless valid ones exist.

    The certificate is valid for localhost, 127.0.0.1, ::1, this machine's name and `host`, the name
    or address on which the server listens. An existing certificate is replaced if it has other
    names, or expires within 30 days. Return whether a certificate was created.
    """
    names = _names(host)
    if key.exists() and certificate.exists() and _is_valid(certificate, names):
        return False
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    replace_file(key, pem.decode())
    signed = _signed(private, names).public_bytes(serialization.Encoding.PEM)
    replace_file(certificate, signed.decode(), mode=0o644)
    return True


def _names(host: str) -> x509.SubjectAlternativeName:
    names = [_name("localhost"), _name(socket.gethostname()), _name("127.0.0.1"), _name("::1")]
    if host not in ANY_ADDRESS:
        names.append(_name(host))
    return x509.SubjectAlternativeName(dict.fromkeys(names))


def _name(host: str) -> x509.DNSName | x509.IPAddress:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))  # without a zone
    except ValueError:
        return x509.DNSName(host.encode("idna").decode())


def _signed(
    private: ec.EllipticCurvePrivateKey, names: x509.SubjectAlternativeName
) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "iot-sensor on this machine")])
    now = dt.datetime.now(dt.UTC)
    public = private.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _LIFETIME)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )
    return builder.sign(private, hashes.SHA256())


def _is_valid(certificate: Path, names: x509.SubjectAlternativeName) -> bool:
    try:
        present = x509.load_pem_x509_certificate(certificate.read_bytes())
        found = present.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    fresh_until = present.not_valid_after_utc - _RENEW_BEFORE
    return found == names and dt.datetime.now(dt.UTC) < fresh_until
