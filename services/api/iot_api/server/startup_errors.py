"""How the API ends when a setting is wrong: an error on the last line of the log, exit code 2.

A worker that can't use the keyring or the tokens passes its error to the master through a file.
Otherwise the master would start workers without end, or log a traceback.
"""

import errno
import fcntl
import os
import socket
import ssl
import sys
import time
from pathlib import Path
from typing import NoReturn

from iot_models.errors import SettingsError
from iot_models.logs import last_line
from iot_models.settings import load_one

EXIT_CODE = 2
_ENDS_MASTER = 3
"""Exit code of a worker that makes gunicorn's master end, and start no other worker
(`Arbiter.WORKER_BOOT_ERROR`)."""
_PORT_SECONDS = 3.0
"""Time in which a port must become free. If a master is killed, its metrics server ends, and frees
the port, up to a second later."""
_shared: list[Path] = []


def share(folder: Path) -> None:
    """Set the folder that master and workers share. The master calls this before it forks."""
    _shared[:] = [folder]


def check_certificate(certificate: str, key: str) -> None:
    """Check that the certificate and its key can be loaded. An empty `certificate` passes.

    Raises:
        SettingsError: a file can't be read, or the key does not belong to the certificate.
    """
    if not certificate:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An empty passphrase: OpenSSL would ask the terminal for one.
        context.load_cert_chain(certificate, key, password="")
    except OSError as error:  # ssl.SSLError is an OSError too
        raise SettingsError(
            f"IOT_TLS_CERTIFICATE and IOT_TLS_KEY can't be used: {error.strerror}"
        ) from None


def check_client_authorities(path: str) -> None:
    """Check the file of the authorities that issue client certificates. An empty `path` passes.

    Raises:
        SettingsError: the file can't be read, or holds no certificate of a root authority.
    """
    if not path:
        return
    authorities = _loaded("IOT_TLS_CLIENT_CA_FILE", path).get_ca_certs()
    if not authorities:
        raise SettingsError("IOT_TLS_CLIENT_CA_FILE has no certificate of an authority (CA:TRUE)")
    has_root = any(each["subject"] == each["issuer"] for each in authorities)
    # Without a root, OpenSSL trusts only authorities with trust settings of its own.
    if not has_root and b"-BEGIN TRUSTED CERTIFICATE-" not in Path(path).read_bytes():
        raise SettingsError(
            "IOT_TLS_CLIENT_CA_FILE has intermediate authorities only: add the root (self-signed)"
        )


def check_revocation_lists(path: str) -> None:
    """Check the file of the authorities' certificate revocation lists. An empty `path` passes.

    Raises:
        SettingsError: the file can't be read, holds no list, or holds a certificate.
    """
    if not path:
        return
    contents = _loaded("IOT_TLS_CLIENT_CRL_FILE", path).cert_store_stats()
    if contents["x509"]:
        # OpenSSL would trust the certificate like an authority of IOT_TLS_CLIENT_CA_FILE.
        raise SettingsError(
            "IOT_TLS_CLIENT_CRL_FILE has a certificate: it must have revocation lists only"
        )
    if not contents["crl"]:
        raise SettingsError("IOT_TLS_CLIENT_CRL_FILE has no certificate revocation list (X509 CRL)")


def check_metrics_port(address: str, port: int) -> None:
    """Check that the metrics server, a process that starts later, can listen. Port 0 passes.

    Raises:
        SettingsError: it can't, for example because another process keeps the port for longer
            than `_PORT_SECONDS`.
    """
    if not port:
        return
    ends = time.monotonic() + _PORT_SECONDS
    while (error := _bind_error(address, port)) is not None:
        if error.errno != errno.EADDRINUSE or time.monotonic() >= ends:
            raise SettingsError(
                f"IOT_API_METRICS_PORT: can't listen on {address} port {port}: {error.strerror}"
            )
        time.sleep(0.1)


def _bind_error(address: str, port: int) -> OSError | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None


def _loaded(variable: str, path: str) -> ssl.SSLContext:
    """Return a context with the certificates and revocation lists of a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise SettingsError(f"{variable} can't be used: {error.strerror}") from None
    return context


def refuse_in_worker(error: SettingsError) -> NoReturn:
    """End this worker and its master. If `share` was not called, only raise the error."""
    if not _shared:
        raise error
    # The first worker that fails writes its error, and holds the lock until it has exited. Its exit
    # ends the master. The other workers wait for the lock: the master would replace a worker that
    # exits earlier, and a second failure would disturb the master's shutdown.
    file = os.open(_file(), os.O_WRONLY | os.O_CREAT, 0o600)
    fcntl.flock(file, fcntl.LOCK_EX)
    if os.fstat(file).st_size:
        sys.exit(0)
    os.write(file, str(error).encode(errors="backslashreplace"))
    sys.exit(_ENDS_MASTER)


def refuse_in_master() -> None:
    """End the master with the error of a worker, if a worker left one."""
    try:
        sentence = _file().read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    refuse(sentence)


def refuse(sentence: object) -> NoReturn:
    """Print an error as the last line of the log, and exit with code 2."""
    last_line("iot-api", sentence, load_one("log_format"))
    sys.exit(EXIT_CODE)


def _file() -> Path:
    return _shared[0] / "refused"
