"""The API's TLS certificate: new connections get a renewed certificate without a restart.

cert-manager renews a certificate every few weeks and replaces the mounted files. The authorities of
client certificates and the revocation lists are reloaded in the same way.
"""

import datetime as dt
import hashlib
import logging
import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from gunicorn.sock import ssl_context

from iot_models import metrics
from iot_models.errors import SettingsError

from .revocations import Revocations
from .startup_errors import check_certificate, check_client_authorities

CHECK_SECONDS = 5.0
"""Seconds between two checks of the files for changes. A check compares the content of the files,
because a changed file may have the same time and size as before."""
_log = logging.getLogger(__name__)


class ServedCertificate:
    """The TLS context of new connections. An open connection keeps the context of its handshake."""

    def __init__(self, config: Any, revocations: Revocations | None = None) -> None:
        """`config` is gunicorn's configuration. The first `refresh` loads the files."""
        self._config = config
        self._revocations = revocations
        self._context: ssl.SSLContext | None = None
        self._loaded: tuple[bytes, ...] = ()
        self._expires = ""
        self._refusal = ""
        self._check_at = 0.0

    @property
    def is_loaded(self) -> bool:
        """Whether the files have been loaded, so that connections can be accepted."""
        return self._context is not None

    def wrap_socket(self, client: Any, **options: Any) -> Any:
        """Wrap an accepted connection, with the options of `SSLContext.wrap_socket`."""
        context: Any = self._context  # not None: the server starts when a certificate is loaded
        return context.wrap_socket(client, **options)

    def refresh(self, now: float) -> None:
        """If a file has changed and all files are valid, load all of them again.

        The files are the certificate, its key, the authorities of client certificates and their
        revocation lists. They are checked every `CHECK_SECONDS`; `now` is the time of the monotonic
        clock. If a file is invalid, the loaded content stays in use, and the reason is logged once.
        Each check tries again: the files may be half written, or the certificate may become valid
        later. The validity of a certificate or a list that is already in use is not checked again:
        even if it has expired, the other files must be loaded.
        """
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        try:
            self._load_changed()
        except (SettingsError, OSError) as error:
            self._report(str(error))
        else:
            self._refusal = ""

    def _load_changed(self) -> None:
        found = self._fingerprint()
        if found == self._loaded:
            return
        # gunicorn's context would ask the terminal for a passphrase: check with an empty one first.
        check_certificate(self._config.certfile, self._config.keyfile)
        check_client_authorities(self._config.ca_certs or "")
        context = _context(self._config)
        lists = None
        if self._revocations is not None:
            authorities = Path(self._config.ca_certs)
            lists = self._revocations.read(context, authorities, first=not self.is_loaded)
        validity = _validity(Path(self._config.certfile))
        if self._fingerprint() != found:
            raise SettingsError("the TLS files changed while they were read")
        if self.is_loaded and found[0] != self._loaded[0]:
            _check_validity(validity)
        self._context, self._loaded = context, found
        if self._revocations is not None and lists is not None:
            self._revocations.use(lists)
        self._note(validity)

    def _fingerprint(self) -> tuple[bytes, ...]:
        """Return the hash of each file. The certificate is the first."""
        files = [self._config.certfile, self._config.keyfile, self._config.ca_certs]
        if self._revocations is not None:
            files.append(self._revocations.path)
        return tuple(hashlib.sha256(Path(path).read_bytes()).digest() for path in files if path)

    def _note(self, validity: "tuple[dt.datetime, dt.datetime] | None") -> None:
        self._expires = "at an unknown time"
        if validity is not None:
            self._expires = f"at {validity[1]:%Y-%m-%dT%H:%M:%SZ}"
            gauge = metrics.gauge("iot_tls_certificate_not_after_timestamp_seconds")
            gauge.set(validity[1].timestamp())
        _log.info("the TLS certificate was loaded; it expires %s", self._expires)

    def _report(self, refusal: str) -> None:
        if refusal == self._refusal:
            return
        self._refusal = refusal
        if self.is_loaded:
            kept = f"the API still serves the certificate that expires {self._expires}"
        else:
            kept = "the API accepts no connection until the files are valid"
        _log.error("the TLS certificate was not loaded: %s; %s", refusal, kept)


def _context(config: Any) -> ssl.SSLContext:
    """Return gunicorn's TLS context, for TLS 1.2 or later, with OP_IGNORE_UNEXPECTED_EOF.

    `Connection.receive_no_more` ends the receiving side of a connection. Without
    OP_IGNORE_UNEXPECTED_EOF, OpenSSL 3 would take that end for an error of the client, and send an
    alert to the client.

    The context accepts the same client certificates with every version of Python.
    """
    context: ssl.SSLContext = ssl_context(config)
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    # Python 3.13 and later set these flags. STRICT refuses certificates without the identifier of
    # their authority's key. OpenSSL 3.0 leaves out this identifier unless it is told to add it.
    # PARTIAL_CHAIN trusts each certificate in the file, even if it is no authority.
    context.verify_flags &= ~(ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _validity(certificate: Path) -> "tuple[dt.datetime, dt.datetime] | None":
    """Return the start and the end of a certificate's validity.

    Return None if OpenSSL can load the certificate but `cryptography` can't, for example because it
    has OpenSSL's trust settings.
    """
    try:
        first = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError:
        return None
    return first.not_valid_before_utc, first.not_valid_after_utc


def _check_validity(validity: "tuple[dt.datetime, dt.datetime] | None") -> None:
    """Raise SettingsError for a certificate that has expired or is not valid yet.

    Only a reload checks the validity: if the new certificate is refused, the earlier one stays in
    use. At the start there is no earlier certificate, so even an expired certificate is used.
    """
    if validity is None:
        return
    begin, end = validity
    now = dt.datetime.now(dt.UTC)
    if now < begin:
        raise SettingsError(f"IOT_TLS_CERTIFICATE is not valid before {begin:%Y-%m-%dT%H:%M:%SZ}")
    if now >= end:
        raise SettingsError(f"IOT_TLS_CERTIFICATE expired at {end:%Y-%m-%dT%H:%M:%SZ}")
