"""The token of a command comes from an option, a file or the environment, and is not shown."""

import argparse
from pathlib import Path

import pytest

from iot_models.errors import SettingsError
from iot_tools.cli.main import main
from iot_tools.cli.token_option import add_token, token_of
from iot_tools.devices.sensors import Schedule
from iot_tools.devices.simulation import Simulation

ENVIRON = {"IOT_TOKEN": "iot_of-the-environment"}


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_token(parser)
    return parser.parse_args(arguments)


def test_sources_of_the_token_have_an_order(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("iot_of-the-file\n", encoding="utf-8")
    assert token_of(parse(), {}) == ""
    assert token_of(parse(), ENVIRON) == "iot_of-the-environment"
    assert token_of(parse("--token", "iot_given"), ENVIRON) == "iot_given"
    assert token_of(parse("--token-file", str(path)), ENVIRON) == "iot_of-the-file"


def test_token_and_token_file_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse("--token", "a", "--token-file", "b")
    assert "not allowed with" in capsys.readouterr().err


def test_a_file_without_a_token_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content, sentence in ((None, "No such file"), (b"\n", "no token"), (b"\xff", "UTF-8")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(SettingsError, match=sentence):
            token_of(parse("--token-file", str(path)), ENVIRON)


@pytest.mark.parametrize("token", ["two words", "a\r\nX-More: b", "é"])
def test_a_token_that_is_no_header_value_is_refused(token: str) -> None:
    with pytest.raises(SettingsError, match="the token has a space, a control character") as caught:
        token_of(parse("--token", token), {})
    assert token not in str(caught.value)


def test_simulate_refuses_a_missing_token_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", "--url", "http://x", "--token-file", "/nothing/here"]) == 2
    assert capsys.readouterr().err == "/nothing/here can't be read: No such file or directory\n"


def test_repr_shows_no_token() -> None:
    simulation = Simulation(
        url="http://x", password="p", schedule=Schedule(rate=1), token="iot_secret"
    )
    assert "iot_secret" not in repr(simulation)
