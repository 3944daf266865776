"""`iot-sensor vault password`, against the service."""

from pathlib import Path

import pytest

from iot_tools.cli.main import main
from support.stack import MakeStack, Stack
from support.waiting import wait_until
from system.tools.conftest import Start

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name files with both passwords."""
    for name in ("old", "new"):
        (tmp_path / name).write_text(f"the {name} password\n")
    return [
        *("--password-file", str(tmp_path / "old")),
        *("--new-password-file", str(tmp_path / "new")),
    ]


def test_the_password_is_changed(stack: Stack, files: list[str], capsys: Captured) -> None:
    assert stack.put({"data": {"db_password": "the old password"}}).status == 201
    command = ["vault", "password", "--url", stack.url, *files]
    assert main(command) == 0
    assert capsys.readouterr().out == f"{stack.url}: the password was changed\n"
    wait_until(lambda: len(stack.read("the new password")) == 1, what="the reading")
    assert stack.read("the old password") == []
    assert main(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"{stack.url}: db_password: no vault has this password; if an earl")


def test_a_token_of_the_scope_admin_is_needed(
    make_stack: MakeStack, token_files: dict[str, Path], files: list[str], capsys: Captured
) -> None:
    stack = make_stack({"IOT_TOKENS_FILE": str(token_files["tokens"])}, writers=0)
    command = ["vault", "password", "--url", stack.url, *files]
    assert main([*command, "--token-file", str(token_files["probe"])]) == 1
    assert "this request needs a token with the scope admin" in capsys.readouterr().err


def test_without_a_terminal_passwords_come_from_files(start: Start, files: list[str]) -> None:
    process = start("vault", "password", "--url", "http://127.0.0.1:1", *files[:2])
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said == "there is no terminal to ask for the new password: use --new-password-file\n"


def test_a_file_that_is_empty_by_mistake_does_not_open_the_vault_to_everyone(
    files: list[str], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "new").write_text("\n")
    assert main(["vault", "password", "--url", "http://127.0.0.1:1", *files]) == 2
    assert capsys.readouterr().err == "the new password is empty; nothing was changed\n"


def test_without_a_connection_nothing_is_changed(files: list[str], capsys: Captured) -> None:
    assert main(["vault", "password", "--url", "http://127.0.0.1:1", *files]) == 1
    assert capsys.readouterr().err.endswith("Connection refused; nothing was changed\n")
