"""The command reports an error in one sentence."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from iot_cipher.keyring import new_keyring_text
from iot_models import settings
from iot_tools.cli.main import _COMMANDS, main


def test_a_command_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "the following arguments are required: command" in capsys.readouterr().err


@pytest.mark.parametrize("name", _COMMANDS)
def test_each_command_has_its_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: iot-sensor {name} ")


@pytest.mark.parametrize("name", ["canary", "probe", "secrets", "settings", "tokens"])
def test_a_command_without_stores_imports_no_driver(name: str) -> None:
    """The imports take four times as long as such a command, and 35 MB in each of its pods."""
    program = (
        "import sys\n"
        "from iot_tools.cli.main import main\n"
        "try:\n    main([sys.argv[1], '--help'])\n"
        "except SystemExit:\n    print({'psycopg', 'redis'} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", program, name]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["dance"], "invalid choice: 'dance'"),
        (["simulate"], "required: --url"),
        (["simulate", "--url", "http://x", "--devices", "0"], "must be an integer from 1"),
        (["simulate", "--url", "http://x", "--rate", "fast"], "must be above 0 and at most 100000"),
        (["simulate", "--url", "http://x", "--rate", "nan"], "must be above 0 and at most 100000"),
        (["keys"], "required: action"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--port", "http"], "PORT must be an integer from 1 to 65535, not 'http'\n"),
        (["simulate", "--url", "x"], "--url is not an http(s) URL: x\n"),
    ],
)
def test_invalid_values_are_named(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == sentence


def test_a_missing_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("IOT_POSTGRES_URL", raising=False)
    assert main(["migrate"]) == 2
    assert capsys.readouterr().err.startswith("IOT_POSTGRES_URL is not set")


@pytest.mark.parametrize("options", [[], ["--markdown"]])
def test_every_setting_is_listed(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, default, meaning in settings.describe():
        assert any(name in line and default in line and meaning in line for line in lines)


def test_a_keyring_is_created_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keyring"
    assert main(["keys", "create", str(path)]) == 0
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert main(["keys", "create", str(path)]) == 0
    assert path.read_bytes() == content
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{path}: created", f"{path}: exists, not changed"]


def test_writer_keys_are_derived_from_the_keyring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring, path = tmp_path / "keyring.json", tmp_path / "writer-keys.json"
    derive = ["keys", "writer", "--keyring", str(keyring), "--file", str(path)]
    assert main(derive) == 2
    assert capsys.readouterr().err == f"{keyring} can't be read: No such file or directory\n"
    main(["keys", "create", str(keyring)])
    assert main(derive) == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    written = path.stat().st_ino
    assert main(derive) == 0
    assert path.stat().st_ino == written
    keyring.write_text(new_keyring_text(), encoding="utf-8")
    assert main(derive) == 0
    assert path.stat().st_ino != written
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{path}: written",
        f"{path}: up to date, not changed",
        f"{path}: written",
    ]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["keyring.json", "writer-keys.json"]


def test_writer_keys_never_replace_the_keyring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keyring = tmp_path / "keyring.json"
    main(["keys", "create", str(keyring)])
    content = keyring.read_bytes()
    assert main(["keys", "writer", "--keyring", str(keyring), "--file", str(keyring)]) == 2
    assert f"{keyring} is not overwritten" in capsys.readouterr().err
    assert keyring.read_bytes() == content


def test_an_unwritable_path_of_keys_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "create", str(tmp_path / "no" / "keyring")]) == 2
    assert "can't be written: No such file or directory" in capsys.readouterr().err
