"""The token that a command sends to the API: from a file, an option or the environment."""

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
    options = parser.add_mutually_exclusive_group()
    options.add_argument(
        "--token-file", type=Path, help=f"file with the API's token; or set {VARIABLE}"
    )
    options.add_argument(
        "--token", default="", help="the token itself; all users of this machine can see it"
    )


def token_of(parsed: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> str:
    """Return the token of the options, else the token in IOT_TOKEN, else "".

    Raises:
        SettingsError: the file can't be read, or the token has invalid characters.
    """
    if parsed.token_file is not None:
        token = read_secret(parsed.token_file, "token")
    else:
        token = parsed.token or environ.get(VARIABLE, "")
    if not _PRINTABLE.fullmatch(token):
        raise SettingsError("the token has a space, a control character or a non-ASCII character")
    return token


def read_secret(path: Path, what: str, *, may_be_empty: bool = False) -> str:
    """Read a token or a password from a file.

    Raises:
        SettingsError: the file can't be read, or it is empty and `may_be_empty` is not set.
    """
    secret = read_text(path).strip()
    if not secret and not may_be_empty:
        raise SettingsError(f"{path} contains no {what}")
    return secret
