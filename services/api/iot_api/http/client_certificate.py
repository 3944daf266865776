"""The client certificate of a TLS connection."""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CLIENT_CERTIFICATE = "iot_api.client_certificate"
"""Key in the WSGI environ: the `ClientCertificate` of the connection, if it has one. Only the
worker can set this key, because the keys of a client's headers begin with `HTTP_`."""


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A client certificate that OpenSSL verified at the TLS handshake.

    At the handshake, the certificate had not expired. An authority of `IOT_TLS_CLIENT_CA_FILE` has
    issued it for clients.
    """

    name: str
    """The DNS name, in lower case. Empty if the certificate has none, or more than one."""
    expires: float
    """Unix time at which the certificate expires. The connection may last longer."""

    is_revoked: Callable[[], bool] = lambda: False
    """Returns whether the authority has revoked the certificate, as far as this process knows."""

    @property
    def has_expired(self) -> bool:
        """Whether the certificate has expired since the handshake."""
        return time.time() >= self.expires


def parse_certificate(
    content: Mapping[str, Any], is_revoked: Callable[[], bool] = lambda: False
) -> ClientCertificate:
    """Parse the dict of `SSLSocket.getpeercert`.

    The name comes from the extension subjectAltName. The subject's common name is not read, because
    an authority's name constraints do not apply to common names (RFC 9525).
    """
    names = [value for kind, value in content.get("subjectAltName", ()) if kind == "DNS"]
    return ClientCertificate(
        name=names[0].lower() if len(names) == 1 else "",
        expires=float(ssl.cert_time_to_seconds(content["notAfter"])),
        is_revoked=is_revoked,
    )
