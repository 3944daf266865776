"""`iot-sensor vault password`: change the password of a vault through the API."""

import argparse
import getpass
import sys
from pathlib import Path

from iot_models.errors import IotError, SettingsError
from iot_sensor_client import Client, ClientError, NoResponseError

from .option_types import Subparsers
from .token_option import add_token, read_secret, token_of

_TIMEOUT = 60.0
"""A change takes a second and several scrypts, which may have to wait for others."""


def add_vault(commands: "Subparsers[argparse.ArgumentParser]") -> None:
    """Add `vault password` to the command."""
    parser = commands.add_parser("vault", help="change the password of a vault")
    actions = parser.add_subparsers(required=True, metavar="action")
    password = actions.add_parser(
        "password", help="change the password of a vault; its readings stay readable"
    )
    password.add_argument(
        "--url", required=True, help="URL of the service, for example http://host:5000"
    )
    add_token(password)
    password.add_argument(
        "--password-file", type=Path, help="file with the present password; default: ask for it"
    )
    password.add_argument(
        "--new-password-file", type=Path, help="file with the new password; default: ask for it"
    )
    password.set_defaults(command=_change_password)


def _change_password(parsed: argparse.Namespace) -> int:
    token = token_of(parsed)
    old = _password(parsed.password_file, "present password")
    new = _password(parsed.new_password_file, "new password")
    if parsed.new_password_file is None and new != _ask("new password again"):
        raise SettingsError("the two entries of the new password differ; nothing was changed")
    try:
        client = Client(parsed.url, old, token, timeout=_TIMEOUT)
    except ValueError as error:
        raise SettingsError(f"--url is {error}") from None
    with client:
        try:
            client.change_password(new)
        except ClientError as error:
            raise IotError(f"{parsed.url}: {_reason(error)}") from None
    print(f"{parsed.url}: the password was changed")
    return 0


def _reason(error: ClientError) -> str:
    if isinstance(error, NoResponseError):
        return (
            f"{error}; the password may have been changed: read with the new password to find out"
        )
    if error.response is not None:
        try:
            return str(error.response.json()["error"])
        except (ValueError, KeyError, TypeError):
            pass
    return str(error)


def _password(path: Path | None, what: str) -> str:
    return _ask(what) if path is None else read_secret(path, "password")


def _ask(what: str) -> str:
    """Ask for a password on the terminal, without showing it."""
    if not sys.stdin.isatty():
        raise SettingsError(
            f"there is no terminal to ask for the {what}; use --password-file and "
            "--new-password-file"
        )
    try:
        return getpass.getpass(f"{what}: ")
    except (EOFError, KeyboardInterrupt):
        raise SettingsError("no password was entered; nothing was changed") from None
