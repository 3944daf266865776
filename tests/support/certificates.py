"""TLS certificates, and a folder of them like a mounted Secret that kubelet replaces."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, as PEM."""

    certificate: bytes
    key: bytes
    serial: int
    not_after: dt.datetime


def new_pair(*, address: str = "127.0.0.1", begins: int = -1, ends: int = 90) -> Pair:
    """Return a self-signed pair for an address, valid from `begins` to `ends`, in days from now."""
    private = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    # OpenSSL finds a trusted certificate by its name, and compares no others of that name.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{serial:x}")])
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(serial)
        .not_valid_before(now + dt.timedelta(days=begins))
        .not_valid_after(now + dt.timedelta(days=ends))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, SHA256())
    )
    return _pair(signed, private)


def _pair(signed: x509.Certificate, private: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        signed.public_bytes(serialization.Encoding.PEM),
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
        signed.serial_number,
        signed.not_valid_after_utc,
    )


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Authority:
    """A certificate authority that issues certificates to clients or servers.

    It is a root authority, or has its own certificate from `issuer`.
    """

    def __init__(self, name: str = "", issuer: "Authority | None" = None) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name or f"authority {x509.random_serial_number():x}")
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        signer = issuer or self
        signed = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(signer.name)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=400))
            .not_valid_after(now + dt.timedelta(days=400))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_SIGNS, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.private.public_key()),
                critical=False,
            )
            .sign(signer.private, SHA256())
        )
        self.certificate = signed.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        *names: str,
        address: str = "",
        common_name: str = "a device",
        begins: float = -1,
        ends: float = 90,
        purpose: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> Pair:
        """Return a certificate for DNS names and an address.

        It is valid from `begins` to `ends`, in days from now. With `purpose` None, both clients and
        servers may use it.
        """
        private = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self.name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + dt.timedelta(days=begins))
            .not_valid_after(now + dt.timedelta(days=ends))
        )
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        known: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        if address:
            known.append(x509.IPAddress(ipaddress.ip_address(address)))
            # A server's certificate. Clients with Python 3.13 refuse it without this extension. The
            # API takes clients' certificates without it: OpenSSL 3.0 does not add it by default.
            key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.private.public_key())
            builder = builder.add_extension(key, critical=False)
        if known:
            builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=False)
        return _pair(builder.sign(self.private, SHA256()), private)

    def revoke(
        self, *pairs: Pair, begins: float = -1, ends: float = 1, serials: tuple[int, ...] = ()
    ) -> bytes:
        """Return a revocation list (PEM) of these certificates and `serials`.

        It is valid from `begins` to `ends`, in days from now.
        """
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(now + dt.timedelta(days=begins))
            .next_update(now + dt.timedelta(days=ends))
        )
        for serial in (*(pair.serial for pair in pairs), *serials):
            revoked = x509.RevokedCertificateBuilder().serial_number(serial)
            builder = builder.add_revoked_certificate(revoked.revocation_date(now).build())
        signed = builder.sign(self.private, SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class MountedSecret:
    """A folder like a Secret that kubelet mounts: each file is a link to a file below `..data`.

    `..data` is a link to the folder of the current version.
    """

    def __init__(self, folder: Path, pair: Pair) -> None:
        self._folder = folder
        self._version = 0
        folder.mkdir()
        self.replace(pair.certificate, pair.key)
        for path in (self.certificate, self.key):
            path.symlink_to(Path("..data") / path.name)

    @property
    def certificate(self) -> Path:
        """The path of the certificate."""
        return self._folder / "tls.crt"

    @property
    def key(self) -> Path:
        """The path of the key."""
        return self._folder / "tls.key"

    def replace(self, certificate: bytes, key: bytes) -> None:
        """Replace both files at once."""
        self._version += 1
        version = self._folder / f"..version_{self._version}"
        version.mkdir()
        (version / "tls.crt").write_bytes(certificate)
        (version / "tls.key").write_bytes(key)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        link.replace(self._folder / "..data")
