"""TLS options of the commands that call the API: CA certificates and a client certificate."""

import argparse
import ssl
from pathlib import Path

from iot_models.errors import SettingsError


def add_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options `--ca-file`, `--cert-file` and `--key-file`."""
    parser.add_argument(
        "--ca-file",
        type=Path,
        help="PEM file of the certificate authorities to trust; default: those of the system",
    )
    parser.add_argument(
        "--cert-file", type=Path, help="PEM file of a client certificate, instead of a token"
    )
    parser.add_argument(
        "--key-file",
        type=Path,
        help="PEM file of the private key of --cert-file; default: the key is in --cert-file",
    )


def tls_of(parsed: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the TLS context of the options; None without options for TLS.

    Raises:
        SettingsError: a file can't be used, or the URL is not https.
    """
    if not (parsed.ca_file or parsed.cert_file or parsed.key_file):
        return None
    if not parsed.url.lower().startswith("https:"):
        raise SettingsError("--ca-file, --cert-file and --key-file need an https URL")
    if parsed.key_file and not parsed.cert_file:
        raise SettingsError("--key-file needs --cert-file, the certificate of that key")
    try:
        context = ssl.create_default_context(cafile=parsed.ca_file)
    except OSError as error:
        raise SettingsError(f"--ca-file {parsed.ca_file}: {error.strerror}") from None
    if parsed.cert_file:
        try:
            # Without a passphrase, OpenSSL would ask for one on the terminal.
            context.load_cert_chain(parsed.cert_file, parsed.key_file, password="")
        except OSError as error:
            raise SettingsError(f"--cert-file and --key-file: {error.strerror}") from None
    return context
