"""The token that a command brings to the API: from a file, the environment or an option."""

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path

from iot_models.errors import SettingsError
from iot_models.text_files import read_text

VARIABLE = "IOT_TOKEN"

_PRINTABLE = re.compile(r"[!-~]*")


def add_token(parser: argparse.ArgumentParser) -> None:
    """Add the options `--token` and `--token-file`."""
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--token-file", type=Path, help=f"with the API's token; or set {VARIABLE}")
    given.add_argument("--token", default="", help="itself; all users of the machine can see it")


def token_of(parsed: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> str:
    """The token that was given, else that of the environment, else none, which is empty.

    Raises:
        SettingsError: the file can't be read, or what is given can't be a token.
    """
    if parsed.token_file is not None:
        token = read_token(parsed.token_file)
    else:
        token = parsed.token or environ.get(VARIABLE, "")
    if not _PRINTABLE.fullmatch(token):
        raise SettingsError("the token is not one: it holds a space or a character beyond ASCII")
    return token


def read_token(path: Path) -> str:
    """The token in a file. Raises `SettingsError` when there is none to be read."""
    try:
        token = read_text(path).strip()
    except OSError as error:
        raise SettingsError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} can't be read: it is not UTF-8 text") from None
    if not token:
        raise SettingsError(f"{path} holds no token")
    return token
