"""`iot-sensor vault erase`, against the service."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from iot_tools.cli.main import main
from support.stack import MakeStack, Stack
from support.waiting import wait_until
from system.tools.conftest import Start

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def password_file(password: str, tmp_path: Path) -> list[str]:
    """The option that names the file with the password."""
    (tmp_path / "password").write_text(f"{password}\n")
    return ["--password-file", str(tmp_path / "password")]


def test_the_vault_is_erased(
    shared_stack: Stack, password: str, password_file: list[str], capsys: Captured
) -> None:
    assert shared_stack.put({"data": {"db_password": password}}).status == 201
    wait_until(lambda: len(shared_stack.read(password)) == 1, what="the reading")
    command = ["vault", "erase", "--url", shared_stack.url, *password_file]
    assert main(command) == 2
    assert capsys.readouterr().err == ("there is no terminal to ask for confirmation; use --yes\n")
    assert len(shared_stack.read(password)) == 1
    assert main([*command, "--yes"]) == 0
    assert capsys.readouterr().out == f"{shared_stack.url}: the vault was erased\n"
    assert shared_stack.read(password) == []
    assert main([*command, "--yes"]) == 1
    assert "db_password: no vault has this password" in capsys.readouterr().err


def test_a_token_of_the_scope_admin_is_needed(
    make_stack: MakeStack,
    token_files: dict[str, Path],
    password_file: list[str],
    capsys: Captured,
) -> None:
    stack = make_stack({"IOT_TOKENS_FILE": str(token_files["tokens"])}, writers=0)
    command = ["vault", "erase", "--yes", "--url", stack.url, *password_file]
    assert main([*command, "--token-file", str(token_files["probe"])]) == 1
    assert "this request needs a token with the scope admin" in capsys.readouterr().err


def test_without_a_terminal_the_password_comes_from_a_file(start: Start) -> None:
    process = start("vault", "erase", "--yes", "--url", "http://127.0.0.1:1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said.startswith("there is no terminal to ask for the password")


def test_without_a_connection_nothing_is_erased(password_file: list[str], capsys: Captured) -> None:
    command = ["vault", "erase", "--yes", "--url", "http://127.0.0.1:1", *password_file]
    assert main(command) == 1
    assert capsys.readouterr().err.endswith("Connection refused; nothing was changed\n")


def test_without_an_answer_the_vault_may_be_erased(
    password_file: list[str], capsys: Captured
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close_connections() -> None:
            with suppress(OSError):  # the server was closed
                while True:
                    connection, _ = server.accept()
                    connection.recv(1)
                    connection.close()

        threading.Thread(target=close_connections, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert main(["vault", "erase", "--yes", "--url", url, *password_file]) == 1
        server.shutdown(socket.SHUT_RDWR)
    assert "the vault may be erased" in capsys.readouterr().err


def test_the_password_may_be_empty(shared_stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert shared_stack.put({"data": {"db_password": ""}}).status == 201
    wait_until(lambda: len(shared_stack.read("")) == 1, what="the reading")
    options = ["--url", shared_stack.url, "--password-file", str(tmp_path / "empty")]
    assert main(["vault", "erase", "--yes", *options]) == 0
    assert shared_stack.read("") == []
