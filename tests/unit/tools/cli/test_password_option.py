"""The password of a command: a password that is not UTF-8 is refused without repeating it."""

import argparse
import getpass
import sys

import pytest

from iot_models.errors import SettingsError
from iot_tools.cli.password_option import password_of

PARSED = argparse.Namespace(password_file=None)


def test_a_password_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOT_PASSWORD", "p\xe4ss")
    assert password_of(PARSED) == "p\xe4ss"
    monkeypatch.setenv("IOT_PASSWORD", "p\udcffss")
    with pytest.raises(SettingsError, match=r"^IOT_PASSWORD is not UTF-8$"):
        password_of(PARSED)


def test_a_password_from_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(_: str) -> str:
        return b"p\xffss".decode()

    monkeypatch.delenv("IOT_PASSWORD", raising=False)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(getpass, "getpass", typed)
    with pytest.raises(SettingsError, match=r"^the password is not UTF-8$"):
        password_of(PARSED)
