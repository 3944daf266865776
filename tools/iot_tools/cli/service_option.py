"""The options of commands that call the API: its URL, a token, TLS."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from iot_models.errors import SettingsError

from .option_types import service_url
from .tls_options import add_tls, tls_of
from .token_option import add_token, token_of

if TYPE_CHECKING:
    from iot_sensor_client import Client


def add_service(parser: argparse.ArgumentParser) -> None:
    """Add `--url`, and the options of `add_token` and `add_tls`."""
    parser.add_argument(
        "--url",
        type=service_url,
        required=True,
        help="URL of the service, for example http://host:5000",
    )
    add_token(parser)
    add_tls(parser)


@contextmanager
def checked_url() -> Iterator[None]:
    """Report an invalid URL in the block as an error of the option `--url`.

    Raises:
        SettingsError: the block raised `ValueError`.
    """
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"--url: {error}") from None


def service_client(
    parsed: argparse.Namespace, password: str | None = None, **options: Any
) -> "Client":
    """Return a client with the URL, the token and the TLS of the options.

    Raises:
        SettingsError: an option can't be used.
    """
    from iot_sensor_client import Client  # noqa: PLC0415 -- only where needed

    token, tls = token_of(parsed), tls_of(parsed)
    with checked_url():
        return Client(parsed.url, password, token, tls_context=tls, **options)
