"""`iot-sensor vault`: change the password of a vault, or erase a vault, through the API."""

import argparse
import sys
from pathlib import Path

from iot_models.errors import IotError, SettingsError
from iot_sensor_client import ClientError, NoResponseError

from .password_option import ask
from .service_option import add_service, service_client
from .token_option import read_secret, token_of

_TIMEOUT = 60.0
"""Timeout of a request, in seconds. A change of a password takes 2 s and several scrypts, which may
wait for other scrypts."""
_WORD = "erase"
_NEW_FILE_OPTION = "--new-password-file"


def add_vault(parser: argparse.ArgumentParser) -> None:
    """Add `vault password` and `vault erase`."""
    actions = parser.add_subparsers(required=True, metavar="action")
    password = actions.add_parser(
        "password", help="change the password of a vault; its readings stay readable"
    )
    _add_options(password)
    password.add_argument(
        _NEW_FILE_OPTION, type=Path, help="file with the new password; default: ask for it"
    )
    password.set_defaults(command=_change_password)
    erase = actions.add_parser("erase", help="erase a vault with all its readings, for good")
    _add_options(erase)
    erase.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    erase.set_defaults(command=_erase)


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_service(parser)
    parser.add_argument(
        "--password-file",
        type=Path,
        help="file with the password of the vault (an empty file is the empty password); default: "
        "ask for the password",
    )


def _change_password(parsed: argparse.Namespace) -> int:
    token_of(parsed)  # an invalid token is reported before the passwords are asked for
    old = _password(parsed.password_file, "present password", "--password-file")
    new = _password(parsed.new_password_file, "new password", _NEW_FILE_OPTION)
    if parsed.new_password_file is None and new != ask(
        "new password again", instead=_NEW_FILE_OPTION
    ):
        raise SettingsError("the new password was not the same both times; nothing was changed")
    if not new:
        # A file that was to hold the password may be empty by mistake.
        raise SettingsError("the new password is empty; nothing was changed")
    unknown = "the password may have been changed: read with the new password to find out"
    with service_client(parsed, old, timeout=_TIMEOUT) as client:
        try:
            client.change_password(new)
        except ClientError as error:
            raise IotError(f"{parsed.url}: {_reason(error, unknown)}") from None
    print(f"{parsed.url}: the password was changed")
    return 0


def _erase(parsed: argparse.Namespace) -> int:
    token_of(parsed)  # as in `_change_password`
    password = _password(parsed.password_file, "password", "--password-file")
    if not parsed.yes:
        _confirm()
    with service_client(parsed, password, timeout=_TIMEOUT) as client:
        try:
            client.erase_vault()
        except ClientError as error:
            reason = _reason(error, "the vault may be erased: read with its password to find out")
            raise IotError(f"{parsed.url}: {reason}") from None
    print(f"{parsed.url}: the vault was erased")
    return 0


def _confirm() -> None:
    """Ask whether to erase a vault. Raises `SettingsError` unless the user agrees."""
    if not sys.stdin.isatty():
        raise SettingsError("there is no terminal to ask for confirmation; use --yes")
    try:
        answer = input(f"All readings of the vault will be lost. Type {_WORD} to continue: ")
    except (EOFError, KeyboardInterrupt):
        answer = ""
    if answer.strip() != _WORD:
        raise SettingsError("nothing was erased")


def _reason(error: ClientError, unknown: str) -> str:
    """Return why a request failed.

    If the request was sent and no response came, append `unknown`, because the request may have
    succeeded. If the request was not sent, append "nothing was changed".
    """
    if isinstance(error, NoResponseError):
        return f"{error}; {unknown if error.sent else 'nothing was changed'}"
    return error.reason


def _password(path: Path | None, what: str, option: str) -> str:
    if path is None:
        return ask(what, instead=option)
    return read_secret(path, "password", may_be_empty=True)
