"""The TLS handshake of one connection, and the client certificate that it verifies."""

import logging
import ssl
from typing import Any

from iot_api.http.client_certificate import ClientCertificate, parse_certificate
from iot_models import metrics

from .revocations import Revocations, identity_of

_NOT_GIVEN = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
_REASONS = {
    9: "expired",  # OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID
    10: "expired",  # X509_V_ERR_CERT_HAS_EXPIRED
    23: "revoked",  # X509_V_ERR_CERT_REVOKED
    3: "no_list",  # X509_V_ERR_UNABLE_TO_GET_CRL
    11: "no_list",  # X509_V_ERR_CRL_NOT_YET_VALID
    12: "no_list",  # X509_V_ERR_CRL_HAS_EXPIRED
}
_log = logging.getLogger(__name__)


def shake_hands(
    client: Any, host: str, revocations: Revocations | None = None
) -> ClientCertificate | None:
    """Make the TLS handshake on a gevent SSLSocket. Other connections are served meanwhile.

    Return the client's certificate; None if the client sent none, or was not asked for one.
    `ClientCertificate.is_revoked` looks the certificate up in `revocations`. A refused client
    certificate is counted and logged.

    Raises:
        OSError: the handshake failed; or the client resumed a TLS session, but the revocation list
            for its certificate has expired.
    """
    try:
        client.do_handshake()
    except ssl.SSLError as error:
        _report(error, host)
        raise
    content = client.getpeercert()
    if not content:
        return None
    if revocations is None:
        return parse_certificate(content)
    identity = identity_of(client.getpeercert(binary_form=True))
    # OpenSSL does not verify the certificate again if the client resumes a session.
    if client.session_reused and revocations.have_expired(identity[0]):
        _refuse("no_list", host, "the session was resumed after the revocation list expired")
        raise ssl.SSLError("the revocation list has expired")
    return parse_certificate(content, lambda: revocations.contains(identity))


def _report(error: ssl.SSLError, host: str) -> None:
    """Count and log a failure that the client's certificate, or its absence, caused.

    The client sees only a TLS alert.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = _REASONS.get(error.verify_code, "untrusted")
        message = error.verify_message
    elif error.reason == _NOT_GIVEN:
        reason, message = "none", "the client sent no certificate"
    else:
        return
    _refuse(reason, host, message)


def _refuse(reason: str, host: str, message: str) -> None:
    metrics.counter("iot_client_certificates_refused_total").labels(reason).inc()
    _log.warning("refused the TLS handshake of %s: %s", host, message)
