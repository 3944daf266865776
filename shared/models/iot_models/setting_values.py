"""The value of one setting: its environment variable, its file if it is a secret, its limits."""

from collections.abc import Mapping
from dataclasses import MISSING, Field
from pathlib import Path
from typing import Any

from .errors import SettingsError
from .text_files import is_unicode, read_line


def variable(name: str) -> str:
    """Return the name of the environment variable that sets the field `name`."""
    return f"IOT_{name.upper()}"


def read_value(setting: Field[Any], environ: Mapping[str, str]) -> Any:
    """Return the value of a field of `Settings`, or its default if the variable is not set.

    Raises:
        SettingsError: the setting is missing or invalid. The message names its variable.
    """
    text = _text_of(setting, environ)
    if not text and setting.default is MISSING:
        raise SettingsError(f"{variable(setting.name)} is not set: {setting.metadata['meaning']}")
    return setting.default if text is None else _parse(setting, text)


def _text_of(setting: Field[Any], environ: Mapping[str, str]) -> str | None:
    name = variable(setting.name)
    if setting.metadata["secret"] and (path := environ.get(f"{name}_FILE", "").strip()):
        return read_line(Path(path), f"{name}_FILE")
    text = environ.get(name)
    if setting.metadata["secret"] and not is_unicode(text or ""):
        raise SettingsError(f"{name} is not UTF-8 text")
    # An env file with CRLF line ends leaves a CR at the end of each value.
    return None if text is None else text.rstrip("\r\n")


def _parse(setting: Field[Any], text: str) -> str | int:
    if setting.type is not int:
        return text
    low, high = setting.metadata["minimum"], setting.metadata["maximum"]
    try:
        number = int(text)
    except ValueError:
        raise SettingsError(f"{variable(setting.name)} must be a whole number") from None
    if not low <= number <= high:
        raise SettingsError(f"{variable(setting.name)} must be from {low} to {high}, not {number}")
    return number
