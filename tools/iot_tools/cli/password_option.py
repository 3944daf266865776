"""The password of a vault that a command uses: from a file, the environment or the terminal."""

import argparse
import getpass
import os
import sys
from pathlib import Path

from iot_models.errors import SettingsError
from iot_models.text_files import is_unicode

from .token_option import read_secret

VARIABLE = "IOT_PASSWORD"


def add_password(parser: argparse.ArgumentParser) -> None:
    """Add the option `--password-file`."""
    parser.add_argument(
        "--password-file",
        type=Path,
        help="file with the password of the readings, without white space at both ends (an empty "
        f"file is the empty password); or set {VARIABLE}; default: ask for the password",
    )


def password_of(parsed: argparse.Namespace) -> str:
    """Return the password of `--password-file`, else of IOT_PASSWORD, else ask for it.

    Raises:
        SettingsError: the file can't be read, IOT_PASSWORD is not UTF-8, or `ask` raised it.
    """
    if parsed.password_file is not None:
        return read_secret(parsed.password_file, "password", may_be_empty=True)
    if VARIABLE in os.environ:
        if not is_unicode(os.environ[VARIABLE]):
            raise SettingsError(f"{VARIABLE} is not UTF-8")
        return os.environ[VARIABLE]
    return ask("password", instead=f"--password-file or {VARIABLE}")


def ask(what: str, *, instead: str) -> str:
    """Ask for a password on the terminal, without showing it, and return it.

    `what` names the password in the prompt, such as "new password".

    Raises:
        SettingsError: there is no terminal (the message says to use `instead`), the password is not
            UTF-8, or the user pressed Ctrl-C or Ctrl-D.
    """
    if not sys.stdin.isatty():
        raise SettingsError(f"there is no terminal to ask for the {what}: use {instead}")
    try:
        return getpass.getpass(f"{what}: ")
    except (EOFError, KeyboardInterrupt):
        raise SettingsError("no password was entered; nothing was done") from None
    except UnicodeDecodeError:  # its message would repeat a part of the password
        raise SettingsError(f"the {what} is not UTF-8") from None
