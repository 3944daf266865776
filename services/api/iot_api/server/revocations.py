"""Certificate revocation lists (CRL) of the authorities that issue client certificates."""

import datetime as dt
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

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
    expires: Mapping[bytes, dt.datetime]
    """The time at which the list of an issuer (DER) expires. After that time, OpenSSL refuses all
    certificates of this issuer, except in handshakes that resume a session."""
    lists: Sequence[x509.CertificateRevocationList] = ()
    authorities: Sequence[x509.Certificate] = ()
    """The authorities with whose keys the signatures of the lists were checked."""


class Revocations:
    """The certificates that are revoked now.

    OpenSSL checks a certificate only in the handshake; `contains` checks it on open connections.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._revoked = RevokedCertificates(frozenset(), {})

    def contains(self, identity: Identity) -> bool:
        """Return whether the certificate is revoked."""
        return identity in self._revoked.identities

    def have_expired(self, issuer: bytes) -> bool:
        """Return whether the list of this issuer (DER) has expired."""
        expires = self._revoked.expires.get(issuer)
        return expires is not None and expires <= dt.datetime.now(dt.UTC)

    def read(
        self, context: ssl.SSLContext, authorities: Path, *, first: bool
    ) -> RevokedCertificates:
        """Read the file of revocation lists, and return the content of the lists.

        Make `context` refuse the certificates in the lists. A list is unusable if it has expired,
        is not valid yet, or is not signed by its issuer in the file `authorities`. The first load
        (`first`) accepts an unusable list, and OpenSSL then refuses every certificate of its
        issuer. In a later load, an unusable list is an error, so that the lists in use stay in use.
        A list that is in use already is accepted even if it has expired. If `authorities` has
        changed, the signature of each list is checked again.

        Raises:
            SettingsError: the file has a certificate, no list, or a list that can't be read, or (in
                a later load) an unusable list.
        """
        check_revocation_lists(str(self.path))
        context.load_verify_locations(self.path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        try:
            lists = [x509.load_pem_x509_crl(text) for text in _LIST.findall(self.path.read_bytes())]
        except ValueError as error:
            raise SettingsError(f"IOT_TLS_CLIENT_CRL_FILE can't be used: {error}") from None
        known = _certificates(authorities)
        if not first:
            for each in lists:
                in_use = each in self._revoked.lists
                if not in_use:
                    _check_validity(each)
                if not in_use or known != self._revoked.authorities:
                    _check_signature(each, known)
        expires = dict[bytes, dt.datetime]()
        for each in lists:
            end, issuer = each.next_update_utc, each.issuer.public_bytes()
            if end is not None:  # of two lists of an issuer, OpenSSL uses the one that is valid
                expires[issuer] = max(end, expires.get(issuer, end))
        identities = (
            (each.issuer.public_bytes(), entry.serial_number) for each in lists for entry in each
        )
        return RevokedCertificates(frozenset(identities), expires, lists, known)

    def use(self, revoked: RevokedCertificates) -> None:
        """Replace the lists that `contains` and `have_expired` look into."""
        self._revoked = revoked
        if revoked.expires:
            gauge = metrics.gauge("iot_tls_client_crl_next_update_timestamp_seconds")
            gauge.set(min(revoked.expires.values()).timestamp())


def _check_validity(found: x509.CertificateRevocationList) -> None:
    now = dt.datetime.now(dt.UTC)
    name = f"IOT_TLS_CLIENT_CRL_FILE: a list of {found.issuer.rfc4514_string()}"
    if found.next_update_utc is not None and found.next_update_utc <= now:
        raise SettingsError(f"{name} expired at {found.next_update_utc:%Y-%m-%dT%H:%M:%SZ}")
    if found.last_update_utc > now:
        raise SettingsError(
            f"{name} is not valid before {found.last_update_utc:%Y-%m-%dT%H:%M:%SZ}"
        )


def _check_signature(
    found: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate]
) -> None:
    """Raise `SettingsError` if the issuer is in `authorities`, but has not signed the list."""
    issuer = found.issuer.rfc4514_string()
    issuers = [each for each in authorities if each.subject == found.issuer]
    if issuers and not any(_is_signed_by(found, each) for each in issuers):
        raise SettingsError(
            f"IOT_TLS_CLIENT_CRL_FILE: a list of {issuer} is not signed with the key that {issuer} "
            "has in IOT_TLS_CLIENT_CA_FILE"
        )


def _is_signed_by(found: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return found.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]
    except (TypeError, UnsupportedAlgorithm):
        return True  # OpenSSL may support the algorithm


def _certificates(authorities: Path) -> Sequence[x509.Certificate]:
    """Return the certificates in the file `authorities`, which OpenSSL has loaded before.

    Return [] if `cryptography` can't read the file, for example because a certificate has OpenSSL's
    trust settings.
    """
    try:
        return x509.load_pem_x509_certificates(authorities.read_bytes())
    except ValueError:
        return []


def identity_of(certificate: bytes) -> Identity:
    """Return the issuer and the serial number of a certificate (DER)."""
    parsed = x509.load_der_x509_certificate(certificate)
    return parsed.issuer.public_bytes(), parsed.serial_number
