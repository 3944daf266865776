"""Certificate revocation lists (CRL) of the authorities that issue client certificates."""

import datetime as dt
import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from iot_models import metrics
from iot_models.errors import SettingsError

from .startup_errors import check_revocation_lists

Identity = tuple[bytes, int]
"""Issuer (DER) and serial number of a certificate."""
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RevokedCertificates:
    """The content of a file of revocation lists."""

    identities: frozenset[Identity]
    expires: dt.datetime | None
    """When the first of the lists expires. From then on, OpenSSL refuses all certificates of the
    authority that issued this list."""


class Revocations:
    """The certificates that are revoked now.

    OpenSSL checks a certificate in the handshake; `contains` is for connections that are open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._revoked: frozenset[Identity] = frozenset()

    def contains(self, identity: Identity) -> bool:
        """Return whether the certificate is revoked."""
        return identity in self._revoked

    def read(self, context: ssl.SSLContext, *, expired: bool) -> RevokedCertificates:
        """Return the content of the file, and make `context` refuse the revoked certificates.

        `expired`: whether to accept an expired list. Only the first load does: later, the lists in
        use may still be valid.

        Raises:
            SettingsError: the file holds no list, or a list that can't be read or has expired.
        """
        check_revocation_lists(str(self.path))
        context.load_verify_locations(self.path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        try:
            lists = [x509.load_pem_x509_crl(text) for text in _LIST.findall(self.path.read_bytes())]
        except ValueError as error:
            raise SettingsError(f"IOT_TLS_CLIENT_CRL_FILE can't be used: {error}") from None
        ends = [each.next_update_utc for each in lists if each.next_update_utc is not None]
        expires = min(ends, default=None)
        if expires is not None and not expired and expires <= dt.datetime.now(dt.UTC):
            raise SettingsError(
                f"IOT_TLS_CLIENT_CRL_FILE: a list expired at {expires:%Y-%m-%dT%H:%M:%SZ}"
            )
        identities = (
            (each.issuer.public_bytes(), entry.serial_number) for each in lists for entry in each
        )
        return RevokedCertificates(frozenset(identities), expires)

    def use(self, revoked: RevokedCertificates) -> None:
        """From now on, `contains` finds these certificates, and no others."""
        self._revoked = revoked.identities
        if revoked.expires is not None:
            gauge = metrics.gauge("iot_tls_client_crl_next_update_timestamp_seconds")
            gauge.set(revoked.expires.timestamp())


def identity_of(certificate: bytes) -> Identity:
    """Return the issuer and the serial number of a certificate (DER)."""
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.issuer.public_bytes(), parsed.serial_number
